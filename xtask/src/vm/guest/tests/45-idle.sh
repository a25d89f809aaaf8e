# Idle services: memory that is taken back, and processes that are put away.
. /insula/lib.sh

uses_below() { # SERVICE BYTES: whether its cgroup is charged with less
  local used
  used=$(cat "/sys/fs/cgroup$(group_of "$(pid_of "$1")")/memory.current")
  (($used < $2)) || { echo "$used bytes"; return 1; }
}

await state_is kv READY
cat >>/etc/insula/profiles.toml <<TOML
[profiles.lazy]
reclaim-after = "2s"
TOML
# Reads a file of its own, and then does nothing: what the kernel keeps of the file is charged to it.
cat >/etc/insula/services/reader.toml <<TOML
[run]
profile = "lazy"
command = ["/bin/sh", "-c", "head -c 32000000 /dev/urandom >big; sync big; cat big >/dev/null; echo full; while :; do sleep 100000; done"]
ready = "line:full"
TOML
insulactl update
await state_is reader READY
reader=$(pid_of reader)
check "the memory of a program that is idle is taken back" await uses_below reader 16000000
check "it goes on running" is "$(pid_of reader)" "$reader"
check "the utilisation says how much that was" \
  await says "taken back from others in 1 goes" insulactl utilisation --over 100ms

cat >/etc/insula/services/kv.toml <<TOML
[run]
dormant-after = "2s"
TOML
insulactl update
check "a service that nobody uses is put away" await state_is kv DORMANT
check "its first request finds it" put idle yes
check "and it is put away again" await state_is kv DORMANT
kill -9 "$(daemon)"
check "the next daemon leaves it away" await state_is kv DORMANT
check "and wakes it for a request" has idle yes

rm /etc/insula/services/kv.toml /etc/insula/services/reader.toml
insulactl update
await state_is kv READY
insulactl utilisation --over 100ms
