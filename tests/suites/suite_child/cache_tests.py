"""Django's tests of cache backends: python -m suite_child.cache_tests SOURCE LABEL…"""

import os
import sys

from suite_child import django_tests, environment


def main() -> int:
    os.chdir(os.path.join(sys.argv[1], "tests"))
    sys.path.insert(0, os.getcwd())
    import runtests

    if environment.ENGINE == "raftlog":
        runtests.ALWAYS_INSTALLED_APPS += ["raftlog", "raftlog.contrib.cache"]
    return django_tests.main()


if __name__ == "__main__":
    sys.exit(main())
