# insulad as a service of systemd: calls, deaths of the daemon, a reboot and a power cut.
. /insula/lib.sh

call() { # METHOD REQUEST: as a user that kv lets call it
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
is_below() { [[ $1 == "$2"/* ]] || { echo "$1 is not below $2"; return 1; }; }

case $STAGE in
  1)
    useradd --groups users caller
    install_insulad
    systemctl enable --now insulad
    await insulactl status
    check "the doctor finds own users" has_wall own-uids
    check "the doctor finds cgroups" has_wall cgroups

    install_service kv
    insulactl start kv
    check "an installed service is ready" state_is kv READY
    pid=$(pid_of kv)
    group=$(group_of "$pid")
    check "its cgroup is below one that systemd delegated" is_below "$group" "$(delegated)"
    check "it is alone in it" is "$(cat "/sys/fs/cgroup$group/cgroup.procs")" "$pid"
    check "it does not run as root" test "$(stat -c %u "/proc/$pid")" -ne 0
    check "a call writes" put a one
    check "a call reads" has a one

    daemon=$(systemctl show -P MainPID insulad)
    kill -KILL "$daemon"
    await another_daemon "$daemon"
    await insulactl status
    check "a service outlives kill -9 of the daemon" is "$(pid_of kv)" "$pid"
    check "it is ready for the next daemon" state_is kv READY
    check "it stays in its cgroup" is "$(group_of "$pid")" "$group"
    check "calls go on with the next daemon" has a one

    kill -KILL "$pid"
    await another_pid kv "$pid"
    await state_is kv READY
    check "a killed service comes back with its data" has a one

    systemctl restart insulad
    await insulactl status
    await state_is kv READY
    check "a service is ready after a restart of the unit" state_is kv READY
    check "its data outlives the restart" has a one
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
    pid=$(pid_of kv)
    systemctl stop insulad
    check "stopping the unit stops the services" gone "$pid"
    ;;
esac
