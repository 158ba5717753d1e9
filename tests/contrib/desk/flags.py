from raftlog.contrib import flags

flags.define("greeting", default="hello")
