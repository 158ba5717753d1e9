"""A monitor whose waits run the next step of a script instead of sleeping, so that thread mains run without threads."""

from raftlog.runtime.monitor import Monitor


class ScriptedCondition:
    def __init__(self, monitor):
        self.monitor = monitor
        self.notified = 0

    def wait_until(self, deadline):
        self.monitor.assert_held()
        self.monitor.waited_for.append(deadline)
        self.monitor.next_step()

    def notify(self):
        self.monitor.assert_held()
        self.notified += 1


class ScriptedMonitor(Monitor):
    """`steps` are callables without arguments; each wait runs the next. A wait beyond the last one fails the test."""

    def __init__(self):
        super().__init__(monotonic=lambda: self.now)
        self.now = 0.0
        self.steps = []
        self.waited_for = []

    def condition(self):
        return ScriptedCondition(self)

    def next_step(self):
        assert self.steps, f"a wait that the script does not expect; waited for {self.waited_for}"
        self.steps.pop(0)()
