# insulad under its own units: calls, a client that goes on through restarts, reloads, deaths and
# hangs of the daemon, stops in order, a reboot and a power cut.
. /insula/lib.sh

# A program of the host that says when it ends.
define() { # NAME AFTER
  local script="trap 'echo $1 >>/var/tmp/order; exit 0' TERM; while :; do sleep 1000 & wait; done"
  cat >"/etc/insula/services/$1.toml" <<TOML
after = [$2]
[run]
command = ["/bin/sh", "-c", "$script"]
profile = "dense"
writes = ["/var/tmp/order"]
TOML
}
expect_order() { # WORD...: what the programs said, in this order
  is "$(tr '\n' ' ' </var/tmp/order)" "$* "
}

case $STAGE in
  1)
    useradd --groups users caller
    install_insulad
    check "systemd finds no fault with the units" silent systemd-analyze verify --man=no \
      /etc/systemd/system/insul{ad.service,ad.socket,a-payload.service,a.slice}
    # Returns when the daemon has said that it is ready.
    systemctl enable --now insulad
    check "the unit is active once the daemon is ready" insulactl releases
    check "the group of the control socket is there" is "$(stat -c %G /run/insula/control.sock)" insula
    check "the doctor finds own users" has_wall own-uids
    check "the doctor finds cgroups" has_wall cgroups

    install_service kv
    insulactl start kv
    check "an installed service is ready" state_is kv READY
    pid=$(pid_of kv)
    group=$(group_of "$pid")
    check "its cgroup is below that of the payload's unit" is_below "$group" "$(delegated)"
    check "it is alone in it" is "$(cat "/sys/fs/cgroup$group/cgroup.procs")" "$pid"
    check "it does not run as root" test "$(stat -c %u "/proc/$pid")" -ne 0
    check "a call writes" put a one
    check "a call reads" has a one

    start_load
    before=$(daemon)
    systemctl restart insulad
    check "a restart of the unit is another daemon" another_daemon "$before"
    check "the restarted unit is active once the daemon answers" insulactl releases
    check "a service outlives a restart of the unit" is "$(pid_of kv)" "$pid"
    await state_is kv READY
    check "it is ready for the next daemon" state_is kv READY
    check "it stays in its cgroup" is "$(group_of "$pid")" "$group"

    before=$(daemon)
    systemctl kill -s KILL insulad
    check "who connects while no daemon runs is answered by the next one" insulactl releases
    check "a killed daemon is followed by another one" another_daemon "$before"
    check "a service outlives kill -9 of the daemon" is "$(pid_of kv)" "$pid"
    await state_is kv READY
    check "calls go on with the next daemon" has a one

    mkdir -p /etc/insula/services
    : >/var/tmp/order
    chmod 666 /var/tmp/order
    define first ""
    define second '"first"'
    check "a reload takes in what is new" systemctl reload insulad
    await state_is second READY
    check "a program of the host runs after a reload" state_is second READY
    echo 'nonsense = 1' >>/etc/insula/services/second.toml
    second=$(pid_of second)
    check "a reload of a file with a mistake fails" refused systemctl reload insulad
    check "the unit stays active" systemctl is-active insulad
    check "the old state stays" is "$(pid_of second)" "$second"
    await says "not taken in" systemctl show -P StatusText insulad
    check "the unit's status tells of the mistake" \
      says "not taken in" systemctl show -P StatusText insulad
    define second '"first"'
    check "a reload of the mended file works" systemctl reload insulad
    await says "ready" systemctl show -P StatusText insulad
    await refused says "not taken in" systemctl show -P StatusText insulad

    before=$(daemon)
    kill -STOP "$before"
    await another_daemon "$before"
    check "a daemon that hangs is replaced by systemd" another_daemon "$before"
    check "the one after a hang answers" insulactl releases
    check "a service outlives a hang of the daemon" is "$(pid_of kv)" "$pid"
    end_load
    check "no call failed and no write was lost through all of it" is "$load_ended" 0

    kill -KILL "$pid"
    await another_pid kv "$pid"
    await state_is kv READY
    check "a killed service comes back with its data" has a one

    : >/var/tmp/order
    pid=$(pid_of kv)
    systemctl stop insulad
    check "stopping the unit stops the services" gone "$pid"
    check "they are stopped in reverse order" expect_order second first
    check "the payload's unit stays" systemctl is-active insula-payload
    check "a connection starts the daemon again" insulactl releases
    await state_is kv READY
    await state_is second READY
    : >/var/tmp/order
    systemctl restart insula-payload
    check "a restart of the payload's unit stops services in order, too" expect_order second first
    await insulactl status
    await state_is kv READY
    check "they are back in the new one" is_below "$(group_of "$(pid_of kv)")" "$(delegated)"
    check "data outlives all of it" has a one
    await state_is second READY
    : >/var/tmp/order
    systemctl stop insula-payload
    check "a stop of the payload's unit stops the daemon first" expect_order second first
    check "the daemon's unit stops with it" refused systemctl is-active insulad
    rm /etc/insula/services/{first,second}.toml
    systemctl start insulad
    await state_is kv READY
    echo lost >/dev/shm/lost
    reboot_to_next_stage
    ;;
  2)
    await insulactl status
    await state_is kv READY
    check "the reboot was one" test ! -e /dev/shm/lost
    check "a service is back after a reboot" state_is kv READY
    check "its data is intact" has a one
    put b two
    # What was answered must be on the disk: nothing is synced here.
    cut_power_to_next_stage
    ;;
  3)
    await insulactl status
    await state_is kv READY
    check "a service is back after a power cut" state_is kv READY
    check "data from before the reboot is intact" has a one
    check "a write that was answered is kept over the power cut" has b two
    ;;
esac
