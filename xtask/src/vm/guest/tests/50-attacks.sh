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
  ctl install "$release"
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
  ctl start attacker
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
  systemctl enable --now insulad
fi

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

limits=(memory processors)
held='memory-max = "128MiB"
cpu-max = "100%"'
start_pair
attack "$(daemon)" "$scene/walled"
check "why tells that memory ended the attacker" says "killed for memory: " insulactl why attacker
(
  directory=$(mktemp -d)
  cd "$directory"
  aim "$(daemon)"
  "$misbehave" --alone attack "${words[@]}" >"$scene/root"
)
check "no call failed beside the attacks of root" refused says error insulactl logs user
insulactl stop attacker

# The same without walls.
held=""
root=(--root /srv/open) data=/srv/open/lib/data
mkdir -p /srv/open
/usr/local/bin/insulad "${root[@]}" --isolation none >"$OUT/open.log" 2>&1 &
open=$!
await ctl releases
start_pair
attack "$open" "$scene/open"
ctl shutdown
wait "$open"
root=() data=/var/lib/insula/data

check "every attack that works without the walls is denied behind them" judge
cat "$OUT/attacks.txt"
insulactl stop user
insulactl stop former
rm /etc/insula/services/listener.toml
insulactl update
