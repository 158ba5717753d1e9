"""Django's own tests: python -m suite_child.django_tests SOURCE LABEL…"""

import os
import sys

from suite_child import committing, outcomes


def main() -> int:
    source, *labels = sys.argv[1:]
    os.chdir(os.path.join(source, "tests"))
    sys.path.insert(0, os.getcwd())
    import runtests

    committing.prepare()
    # As `runtests.py` does before it runs anything.
    os.environ["RUNNING_DJANGOS_TEST_SUITE"] = "true"
    verbosity = int(os.environ.get("SUITE_VERBOSITY", "0"))
    runtests.django_tests(
        *(verbosity, False, False, False, False, labels, False, 1),
        *([], [], None, "", "", False, False, False, False),
    )
    outcomes.write_report(committing.COPIES.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
