# Attacks of a service on its neighbours and its host, under insulad's units and with the controllers
# of cgroup v2: each is denied behind the walls, and works without them.
. /insula/lib.sh

misbehave=/usr/local/bin/misbehave
cp /insula/bin/misbehave "$misbehave"
scene=/srv/scene
mkdir -p "$scene"
# Of the daemon that is asked: its root directory, none for the one under systemd, and its data.
root=() data=/var/lib/insula/data
ctl() { # VERB...
  insulactl "${root[@]}" "$@"
}
is_ready() { # SERVICE
  ctl status "$1" | grep -E "^$1 +READY "
}
process_of() { # SERVICE
  ctl status "$1" | sed -En 's/.* pid ([0-9]+),.*/\1/p'
}
install_misbehave() { # NAME ARGUMENTS: a release of its own; more of its manifest comes on the input
  local release
  release=$(mktemp -d)
  mkdir "$release/bin"
  cp "$misbehave" "$release/bin/"
  {
    echo "name = \"$1\"
version = \"1.0.0\"
[run]
profile = \"shared\"
ready-timeout = \"600s\"
command = [\"bin/misbehave\", $2]"
    cat
  } >"$release/service.toml"
  ctl install "$release" >"$OUT/install.txt" 2>&1
  rm -r "$release"
}
# Two services that call each other without end.
start_pair() {
  install_misbehave former '"serve", "1"' <<<'[provides."form@1"]'
  install_misbehave user '"use", "1", "--deadline-ms=120000"' <<<'[requires."form@1"]'
  ctl start former
  ctl start user
  await says called ctl logs user
  local secret=$data/former/secret
  echo -n secret >"$secret"
  chmod 600 "$secret"
  chown --reference="$data/former" "$secret"
}
pair() { # its processes
  process_of former
  process_of user
}
figures() { # LEAST: of the pair's calls since it was last asked, once there are so many
  echo "$1" >"$data/user/mark.new"
  mv "$data/user/mark.new" "$data/user/mark"
  await test ! -e "$data/user/mark"
  cat "$data/user/figures"
}
aim() { # DAEMON: puts the arguments of an attack into `words`
  words=(--neighbour=former "--pid=$(process_of former)" "--daemon=$1" --port=18999
    "--set-user-id=$scene/id" "${limits[@]/#/--limit=}")
  if ((${#root[@]})); then words+=("--root=${root[1]}"); fi
}
quoted() { # WORD...: as a list of TOML
  printf '"%s", ' "$@"
}
# Runs the attacks as a service, and copies its table.
attack() { # DAEMON TABLE
  local words before
  aim "$1"
  install_misbehave attacker "\"attack\", $(quoted "${words[@]}")" <<TOML
[run.limits]
processes = 64
open-files = 256
file-size = "1MiB"
$held
TOML
  before=$(pair)
  echo "the pair alone: $(figures 200)"
  # One of the attacks may end it before it is ready.
  ctl start attacker || true
  await is_ready attacker
  echo "beside the attacks: $(figures 1)"
  check "the pair lives on" is "$(pair)" "$before"
  check "no call of it failed" refused says error ctl logs user
  cp "$data/attacker/attacks" "$2"
}
judge() {
  "$misbehave" judge --walled="$scene/walled" --open="$scene/open" --root="$scene/root" \
    >"$OUT/attacks.txt"
}

if ! [[ -e /usr/local/bin/insulad ]]; then
  install_insulad
fi

# Data moves to a disk with quotas, for good.
systemctl stop insulad insula-payload
mkdir /srv/data
disk=/dev/disk/by-id/virtio-data
mount -o usrquota "$disk" /srv/data
cp -a /var/lib/insula/. /srv/data
umount /srv/data
echo "$disk /var/lib/insula ext4 usrquota 0 1" >>/etc/fstab
systemctl daemon-reload
mount /var/lib/insula
systemctl enable --now insulad
check "the doctor finds that quotas are enforced" has_wall data-quotas

# What is to be attacked beside them: a socket of the host, and a program of root for everybody.
cp /usr/bin/id "$scene/id"
chmod 4755 "$scene/id"
mkdir -p /etc/insula/services
cat >/etc/insula/services/listener.toml <<TOML
[run]
command = ["$misbehave", "guest", "listens"]
profile = "shared"
[run.sockets]
http = "127.0.0.1:18999"
TOML
insulactl update

limits=(memory processors data)
held='memory-max = "64MiB"
cpu-max = "50%"
data-max = "8MiB"
data-files-max = 500'
start_pair
attack "$(daemon)" "$scene/walled"
check "why tells that memory ended the attacker" says "killed for memory: " insulactl why attacker
insulactl stop attacker

# Who fills his own data fills nobody else's.
greedy() { # MORE: a service that takes all the disk that it gets, once it is told to
  cat >/etc/insula/services/greedy.toml <<TOML
[run]
command = ["$misbehave", "hungry", "disk"]
profile = "shared"
[run.limits]
$1
TOML
  insulactl update
  await is_ready greedy
}
greedy 'data-max = "8MiB"'
pid=$(process_of greedy)
: >"$data/greedy/eat"
await says "refused more disk after" insulactl logs greedy
check "who fills the disk is refused by its quota" says "os error 122" insulactl logs greedy
check "it has not got more than it may" test "$(du -sk "$data/greedy" | cut -f 1)" -le 8192
check "status tells that its data is full" says "its data is full" insulactl status greedy
check "and why" says "8MiB on the disk" insulactl why greedy
check "it is still there" is "$(process_of greedy)" "$pid"
check "its neighbours go on writing" says " calls, 0 errors" figures 50
rm -r "$data/greedy/eaten"
check "who makes room is not full any more" refused says "is full" insulactl status greedy
greedy 'data-max = "16MiB"'
: >"$data/greedy/eat"
await says "refused more disk after 1" insulactl logs greedy
check "another bound holds from the next start on" says "16MiB on the disk" insulactl why greedy
rm -r "$data/greedy/eaten" /etc/insula/services/greedy.toml
insulactl update

insulactl stop user
insulactl stop former

# The attacks without walls.
held=""
root=(--root /srv/open) data=/srv/open/lib/data
mkdir -p /srv/open
/usr/local/bin/insulad "${root[@]}" --isolation none >"$OUT/open.log" 2>&1 &
open=$!
await ctl releases
start_pair
attack "$open" "$scene/open"
# As an ordinary program of root: what a service without walls could not do.
(
  directory=$(mktemp -d)
  cd "$directory"
  aim "$open"
  "$misbehave" --alone attack --but="$scene/open" "${words[@]}" >"$scene/root"
)
check "no call failed beside the attacks of root" refused says error ctl logs user
ctl shutdown
wait "$open"
root=() data=/var/lib/insula/data

check "every attack that works without the walls is denied behind them" judge
cat "$OUT/attacks.txt"
rm /etc/insula/services/listener.toml
insulactl update
