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

reboot_to_next_stage() { next_stage 100; }
cut_power_to_next_stage() { next_stage 101; }

next_stage() {
  # What failed has been said, and the host counts it.
  failures=0
  exit "$1"
}

install_insulad() { # the programs, and the unit; the caller starts it
  cp /insula/bin/insulad /insula/bin/insulactl /usr/local/bin/
  cat >/etc/systemd/system/insulad.service <<'UNIT'
[Unit]
Description=Insula
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/bin/insulad
Delegate=yes
KillMode=process
Restart=always
RestartSec=100ms
LimitNOFILE=1048576
TasksMax=infinity
OOMPolicy=continue
[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload
}

delegated() { # the cgroup that the services' cgroups lie below
  systemctl show -P ControlGroup insulad
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
  pid=$(systemctl show -P MainPID insulad)
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
