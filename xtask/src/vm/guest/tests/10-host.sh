# The guest is the host that the other scripts rely on.
. /insula/lib.sh

await systemctl is-system-running
check "systemd is the first process" is "$(cat /proc/1/comm)" systemd
check "there are two NUMA nodes" is "$(cat /sys/devices/system/node/online)" 0-1
check "node 1 has four of the eight CPUs" is "$(cat /sys/devices/system/node/node1/cpulist)" 4-7
check "cgroup v2 is mounted alone" is "$(stat -f -c %T /sys/fs/cgroup)" cgroup2fs
for controller in cpuset cpu io memory pids; do
  check "the controller $controller is there" grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers
done
