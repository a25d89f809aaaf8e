# For scripts in guests: `. /insula/lib.sh`.
#
# A check is a sentence and a command that passes if the sentence is true:
#   check "the daemon runs" systemctl is-active insulad
# A check that fails does not end the script. What must work for the rest to make sense goes
# without `check`: the script ends where it fails (set -e).
set -eu -o pipefail
export PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
failures=0

trap 'status=$?; if ((status == 0 && failures)); then exit 99; fi' EXIT
trap 'echo "line $LINENO of the script failed: $BASH_COMMAND"' ERR

check() { # SENTENCE COMMAND...
  local sentence=$1 said
  shift
  if said=$("$@" 2>&1); then
    echo "ok: $sentence"
  else
    echo "FAILED: $sentence"
    echo "  $* said:"
    sed 's/^/  /' <<<"$said"
    failures=$((failures + 1))
  fi
}

await() { # COMMAND...: waits until the command passes, for at most five minutes
  local end=$((SECONDS + 300))
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS > end)); then
      echo "waited in vain for: $*"
      "$@" || true
      return 1
    fi
    sleep 0.2
  done
}

is() { # LEFT RIGHT: whether two words are the same
  [[ $1 == "$2" ]] || { echo "$1 is not $2"; return 1; }
}

is_below() { [[ $1 == "$2"/* ]] || { echo "$1 is not below $2"; return 1; }; }

silent() { # COMMAND...: whether it passes without a word
  local said
  said=$("$@" 2>&1) && [[ -z $said ]] || { echo "$said"; return 1; }
}

refused() { # COMMAND...: whether it fails
  if "$@"; then return 1; fi
}

says() { # TEXT COMMAND...: whether the text is in what it says, however it ends
  local text=$1 said
  shift
  said=$("$@" 2>&1 || true)
  [[ $said == *"$text"* ]] || { echo "$said"; return 1; }
}

reboot_to_next_stage() { next_stage 100; }
cut_power_to_next_stage() { next_stage 101; }

next_stage() {
  # What failed has been said, and the host counts it.
  failures=0
  exit "$1"
}

install_insulad() { # the programs and the units, as a person would; the caller starts them
  cp /insula/bin/insulad /insula/bin/insulactl /usr/local/bin/
  insulactl systemd install
  systemd-sysusers
  systemd-tmpfiles --create
  systemctl daemon-reload
}

delegated() { # the cgroup that the services' cgroups lie below
  systemctl show -P ControlGroup insula-payload
}

daemon() { # its process id
  systemctl show -P MainPID insulad
}

install_service() { # NAME: a release of a program of the workspace
  local release
  release=$(mktemp -d)
  mkdir "$release/bin"
  cp "/insula/bin/$1" "$release/bin/"
  cp "/insula/services/$1.toml" "$release/service.toml"
  insulactl install "$release"
  rm -r "$release"
}

# kv, called by a user that it allows: `useradd --groups users caller`.
call() { # METHOD REQUEST
  insulactl call --as "$(id -u caller)" --deadline 60s kv@1 "$@"
}
put() { # KEY VALUE
  call put "{\"key\": \"$1\", \"value\": \"$2\"}"
}
has() { # KEY VALUE
  local said
  said=$(call get "{\"key\": \"$1\"}")
  grep -E "\"value\": ?\"$2\"" <<<"$said" || { echo "$said"; return 1; }
}

# Calls of a program that does not know of the daemon's restarts; ends with 1 if one failed, or a
# write that was answered is not there.
start_load() {
  rm -f /tmp/words
  mkfifo /tmp/words
  runuser -u caller -- /insula/bin/kv-load exercise --workload F --records 20 --clients 2 \
    --rate 20 --deadline 120s --marks </tmp/words >/tmp/load.out 2>/tmp/load.err &
  load=$!
  exec 9>/tmp/words
  await grep -q "running workload" /tmp/load.err
}
end_load() { # in no subshell: it waits for a child; its status is in $load_ended
  echo stop >&9 || true
  exec 9>&-
  load_ended=0
  wait "$load" || load_ended=$?
  cat /tmp/load.out
  if ((load_ended)); then cat /tmp/load.err; fi
}

has_wall() { # NAME: whether the doctor finds it
  local said
  said=$(insulactl doctor || true) # what else is missing is not asked
  grep -E "^ok +$1 " <<<"$said" || { echo "$said"; return 1; }
}

state_is() { # SERVICE STATE
  local said
  said=$(insulactl status "$1" || true)
  grep -E "^$1 +$2 " <<<"$said" || { echo "$said"; return 1; }
}

pid_of() { # SERVICE
  local said
  said=$(insulactl status "$1" || true)
  sed -En 's/.* pid ([0-9]+),.*/\1/p' <<<"$said"
}

group_of() { # PID: its cgroup
  sed -n 's/^0:://p' "/proc/$1/cgroup"
}

another_daemon() { # PID: whether systemd has started another one
  local pid
  pid=$(daemon)
  ((pid != 0 && pid != $1))
}

another_pid() { # SERVICE PID
  local pid
  pid=$(pid_of "$1")
  [[ -n $pid && $pid != "$2" ]]
}

gone() { # PID
  ! kill -0 "$1" 2>/dev/null
}
