# Limits of services, as the kernel enforces them: memory, processes, processors.
. /insula/lib.sh

group_dir() { # SERVICE: its cgroup's directory
  echo "/sys/fs/cgroup$(group_of "$(pid_of "$1")")"
}
has_two_processes() { # DIRECTORY
  (($(wc -l <"$1/cgroup.procs") == 2))
}
feed() { # SERVICE
  : >"/var/lib/insula/data/$1/eat"
}
used() { # DIRECTORY: microseconds of processors
  sed -n 's/^usage_usec //p' "$1/cpu.stat"
}

await state_is kv READY
check "the doctor finds that limits are enforced" has_wall limits
cp /insula/bin/misbehave /usr/local/bin/
mkdir -p /etc/insula/services
cat >/etc/insula/profiles.toml <<TOML
[profiles.small.limits]
memory-max = "64MiB"
pids-max = 20
cpu-max = "50%"
cpu-weight = 50
TOML
for of in memory processes processors; do
  cat >"/etc/insula/services/$of.toml" <<TOML
[run]
command = ["/usr/local/bin/misbehave", "hungry", "$of"]
profile = "small"
TOML
done
cat >>/etc/insula/services/processes.toml <<TOML
[run.limits]
pids-max = 10
TOML
insulactl update

await state_is memory READY
group=$(group_dir memory)
await has_two_processes "$group"
check "memory is limited" is "$(cat "$group/memory.max")" 67108864
check "who has no memory goes as a whole" is "$(cat "$group/memory.oom.group")" 1
check "processes are limited" is "$(cat "$group/pids.max")" 20
check "processors are limited" is "$(cat "$group/cpu.max")" "50000 100000"
check "the profile has its weight" is "$(cat "${group%/*}/cpu.weight")" 50
pid=$(pid_of memory)
child=$(grep -vx "$pid" "$group/cgroup.procs")
feed memory
await another_pid memory "$pid"
await state_is memory READY
check "an instance over its memory is killed and replaced" another_pid memory "$pid"
check "its child goes with it" gone "$child"
check "why tells that it was for memory" says "killed for memory: " insulactl why memory
check "and what the limit was" says " of limit 64MiB" insulactl why memory

before=$(daemon)
systemctl kill -s KILL insulad
await another_daemon "$before"
await state_is memory READY
check "the next daemon knows of no end yet" refused says "killed for memory" insulactl why memory
pid=$(pid_of memory)
await has_two_processes "$(group_dir memory)"
feed memory
await another_pid memory "$pid"
await state_is memory READY
check "the next daemon tells of the end of who it adopted" says " of limit 64MiB" \
  insulactl why memory

await state_is processes READY
pid=$(pid_of processes)
group=$(group_dir processes)
check "a service asks for less than its profile gives" is "$(cat "$group/pids.max")" 10
feed processes
await says "refused another process after" insulactl logs processes
check "a fork bomb stops at its limit" test "$(cat "$group/pids.current")" -le 10
check "the kernel has refused it some" grep -E "^max [1-9]" "$group/pids.events"
check "its neighbours do not notice" has a one
check "it is still there" is "$(pid_of processes)" "$pid"
kill -KILL "$pid"
await another_pid processes "$pid"
check "why tells of the refusals" says "by its limit of 10" insulactl why processes

await state_is processors READY
group=$(group_dir processors)
feed processors
await grep -E "^nr_throttled [1-9]" "$group/cpu.stat"
check "who uses too much of the processors is throttled" \
  grep -E "^nr_throttled [1-9]" "$group/cpu.stat"
used=$(used "$group") at=$(date +%s%6N)
sleep 5
share=$((($(used "$group") - used) * 100 / ($(date +%s%6N) - at)))
check "four busy threads get about half a processor: $share%" test "$share" -le 70
check "and use it" test "$share" -ge 5

rm /etc/insula/services/{memory,processes,processors}.toml
insulactl update
systemctl restart insulad
await state_is kv READY
check "the directory of an empty profile is gone" \
  refused ls -d /sys/fs/cgroup"$(delegated)"/insula-*/profile-small
