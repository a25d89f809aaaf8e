# Where services sit: cores of their own and memory of a node, as the plan names them.
. /insula/lib.sh

explained() { # SERVICE: CPUs and node, as `insulactl explain` says
  insulactl explain "$1" |
    sed -En 's/.* runs on CPUs ([0-9,-]+) .*memory from node ([0-9]+) only$/\1 \2/p' | head -n 1
}
allowed_of() { # PID: the CPUs of each of its threads, each set once
  sed -n 's/^Cpus_allowed_list:\t//p' /proc/"$1"/task/*/status | sort -u
}
lies_on() { # PID REGION NODE: whether all pages of a region lie on a node, and there are some
  local line
  line=$(grep -F " $2 " "/proc/$1/numa_maps")
  [[ $line == *" N$3="* && $line != *" N$((1 - $3))="* ]] || { echo "$line"; return 1; }
}
apart() { # CPU LIST: whether a CPU is in no list like 0-2,5
  local part first last
  for part in ${2//,/ }; do
    first=${part%-*} last=${part#*-}
    if (($1 >= first && $1 <= last)); then
      echo "$1 is in $2"
      return 1
    fi
  done
}

await state_is kv READY
cat >>/etc/insula/profiles.toml <<TOML
[profiles.bound]
cores = 1
numa = "bind"
memory = "64MiB"
TOML
for name in left right; do
  cat >"/etc/insula/services/$name.toml" <<TOML
[run]
profile = "bound"
command = ["/bin/sh", "-c", "x=\$(head -c 8000000 /dev/zero | tr '\\\\0' a); echo full; while :; do sleep 1000; done"]
ready = "line:full"
TOML
done
insulactl update
await state_is left READY
await state_is right READY
insulactl topology

read -r left_cpu left_node <<<"$(explained left)"
read -r right_cpu right_node <<<"$(explained right)"
check "two owners have two cores" refused is "$left_cpu" "$right_cpu"
for name in left right; do
  read -r cpu node <<<"$(explained "$name")"
  pid=$(pid_of "$name")
  check "$name runs on the core that the plan names" is "$(allowed_of "$pid")" "$cpu"
  check "the heap of $name lies on its node" lies_on "$pid" heap "$node"
  check "the stack of $name lies on its node" lies_on "$pid" stack "$node"
  check "the core lies on the node that its memory is from" \
    test -e "/sys/devices/system/node/node$node/cpu$cpu"
done
shared=$(allowed_of "$(pid_of kv)")
check "who shares is off the core of left" apart "$left_cpu" "$shared"
check "who shares is off the core of right" apart "$right_cpu" "$shared"

pid=$(pid_of left)
before=$(daemon)
systemctl kill -s KILL insulad
await another_daemon "$before"
await state_is left READY
check "the next daemon leaves everybody where he is" is "$(pid_of left) $(explained left)" \
  "$pid $left_cpu $left_node"
check "and the plan, too" is "$(explained right)" "$right_cpu $right_node"

# kv with its channels, while a program of the host calls it.
cat >/etc/insula/services/kv.toml <<TOML
[run]
profile = "bound"
TOML
insulactl update
await state_is kv READY
start_load
read -r _ kv_node <<<"$(explained kv)"
channel() { # OF: the lines of kv's mappings in its channels, or the options of their mounts
  case $1 in
    mappings) grep " file=/run/insula/channels/kv/" "/proc/$(pid_of kv)/numa_maps" ;;
    mounts) grep " /run/insula/channels/kv/" /proc/mounts ;;
  esac
}
all_of() { # OF TEXT: whether it is in all lines, and there are some
  local lines
  lines=$(channel "$1")
  [[ -n $lines ]] && refused grep -vF "$2" <<<"$lines"
}
channel_lies_on() { # NODE: whether all its pages do, and there are some
  local lines
  lines=$(channel mappings)
  [[ $lines == *" N$1="* && $lines != *" N$((1 - $1))="* ]] || { echo "$lines"; return 1; }
}
check "the mounts of kv's channels name its node" all_of mounts "mpol=bind:$kv_node"
check "all that kv maps of them is bound to it" all_of mappings " bind:$kv_node file="
check "their pages lie on it" channel_lies_on "$kv_node"
end_load
check "no call failed" is "$load_ended" 0
rm /etc/insula/services/kv.toml
insulactl update
await state_is kv READY

insulactl stop left
given_back() { [[ $(allowed_of "$(pid_of kv)") != "$shared" ]]; }
await given_back
check "a core that is given back is everybody's again" refused apart "$left_cpu" \
  "$(allowed_of "$(pid_of kv)")"
rm /etc/insula/services/left.toml /etc/insula/services/right.toml
insulactl update
