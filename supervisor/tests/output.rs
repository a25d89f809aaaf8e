//! What services write: nothing lost, nobody held up, nothing out of order.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use support::{Host, is_running, path, wait_for};

/// Installs a service that is a shell script; `more` is the rest of the table `run`.
fn install(host: &Host, name: &str, kind: &str, script: &str, more: &str) {
    let manifest = format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\n[run]\ntype = \"{kind}\"\nprofile = \"shared\"\n\
         command = [\"/bin/sh\", \"-c\", {script:?}]\n{more}\n"
    );
    let release = host.release(name, &manifest, &[]);
    host.must(&["install", path(&release)]);
}

/// A task that writes, run to its end.
fn run(host: &Host, name: &str, script: &str, output: &str) {
    install(host, name, "task", script, output);
    host.must(&["start", name]);
    host.wait_for_state(name, "EXITED");
}

fn directory(host: &Host, name: &str) -> PathBuf {
    host.root.join("log").join(format!("{name}-0"))
}

/// All files of an instance, oldest first.
fn files(host: &Host, name: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory(host, name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // Digits are before letters.
    found.sort();
    found
}

fn read(host: &Host, name: &str) -> Vec<u8> {
    files(host, name)
        .iter()
        .flat_map(|file| fs::read(file).unwrap())
        .collect()
}

/// The text of a line after its time, attempt and stream.
fn text(line: &str) -> (&str, &str) {
    let words: Vec<_> = line.splitn(4, ' ').collect();
    assert_eq!(words[0].len(), 27, "{line}");
    (words[2], words.get(3).unwrap_or(&""))
}

fn texts(all: &str) -> Vec<&str> {
    all.lines().map(|line| text(line).1).collect()
}

fn touch(host: &Host, name: &str, file: &str) {
    fs::write(host.root.join("lib/data").join(name).join(file), "").unwrap();
}

fn wait_for_file(host: &Host, name: &str, file: &str) {
    let path = host.root.join("lib/data").join(name).join(file);
    wait_for(file, || path.exists().then_some(()));
}

/// Whether all pipes were read to their end.
fn no_pipes(host: &Host) -> Option<()> {
    let mut pipes = fs::read_dir(host.root.join("run/output")).unwrap();
    pipes.next().is_none().then_some(())
}

#[test]
fn a_flood_through_many_files_is_all_there_and_in_order_at_its_end() {
    let host = Host::start();
    let limits = "[run.output]\nmax-size = \"64KiB\"\nkeep = 1000";
    run(&host, "flood", "seq 1 50000", limits);
    let all = wait_for("all of it", || {
        let all = String::from_utf8(read(&host, "flood")).unwrap();
        all.ends_with(" 50000\n").then_some(all)
    });
    let numbers: Vec<String> = (1..=50_000).map(|number| number.to_string()).collect();
    assert!(texts(&all) == numbers, "lines are missing or out of order");
    let files = files(&host, "flood");
    assert!(files.len() > 20, "{}", files.len());
    for file in files {
        assert!(fs::metadata(&file).unwrap().len() <= 64 * 1024, "{file:?}");
    }

    // Only so many files are kept.
    let limits = "[run.output]\nmax-size = \"64KiB\"\nkeep = 3";
    run(&host, "short", "seq 1 10000", limits);
    let kept = wait_for("all of it", || {
        let all = String::from_utf8(read(&host, "short")).unwrap();
        all.ends_with(" 10000\n").then_some(all)
    });
    assert_eq!(self::files(&host, "short").len(), 3);
    assert_eq!(texts(&kept).last(), Some(&"10000"));
}

#[test]
fn long_binary_and_unfinished_lines_survive() {
    let host = Host::start();
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf '\\377\\001\\n'; \
                  echo problem >&2; printf end";
    run(&host, "odd", script, "");
    let all = wait_for("all of it", || {
        let all = read(&host, "odd");
        let has = |text: &[u8]| all.windows(text.len()).any(|part| part == text);
        (has(b" out end\n") && has(b" err problem\n")).then_some(all)
    });
    let out: Vec<&[u8]> = all
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| line.splitn(3, |byte| *byte == b' ').last().unwrap())
        .filter(|line| line.starts_with(b"out"))
        .collect();
    let long = |length: usize, mark: &str| [mark.as_bytes(), &vec![b'x'; length][..]].concat();
    assert_eq!(out[0], long(16_384, "out+ "));
    assert_eq!(out[1], long(16_384, "out+ "));
    assert_eq!(out[2], long(40_000 - 2 * 16_384, "out "));
    assert_eq!(out[3], b"out \xff\x01");
    assert_eq!(out[4], b"out end");
    assert_eq!(out.len(), 5);
    let errors = host.must(&["logs", "odd", "--stderr"]);
    assert_eq!(
        errors.lines().map(text).collect::<Vec<_>>(),
        [("err", "problem")]
    );

    // Bare lines, as they come.
    run(
        &host,
        "bare",
        "echo plain",
        "[run.output]\ntimestamps = false",
    );
    wait_for("the bare line", || {
        (read(&host, "bare") == b"plain\n").then_some(())
    });
}

#[test]
fn what_is_written_while_no_daemon_runs_is_there_with_the_next() {
    let mut host = Host::start();
    let script = "echo now serving here; until [ -e go ]; do sleep 0.02; done; \
                  for n in $(seq 1 1000); do echo down $n; done; echo trouble >&2; : > done; \
                  until [ -e more ]; do sleep 0.02; done; echo up again; exec sleep 1000";
    // It is ready by its first line, which comes before anybody could look for it.
    install(
        &host,
        "talker",
        "foreign",
        script,
        "ready = \"line:now serving\"",
    );
    host.must(&["start", "talker"]);
    assert_eq!(host.row("talker")["state"], "READY");
    let pid = host.pid("talker");
    host.kill_daemon();
    touch(&host, "talker", "go");
    wait_for_file(&host, "talker", "done");
    assert!(is_running(pid), "it got SIGPIPE");
    host.start_daemon();
    host.wait_for_state("talker", "READY");
    assert_eq!(host.pid("talker"), pid);
    touch(&host, "talker", "more");
    let said = wait_for("its last line", || {
        let said = host.must(&["logs", "talker", "-n", "5000"]);
        said.contains("up again").then_some(said)
    });
    let out: Vec<&str> = said
        .lines()
        .map(text)
        .filter_map(|(stream, text)| (stream == "out").then_some(text))
        .collect();
    let mut expected = vec!["now serving here".to_owned()];
    expected.extend((1..=1_000).map(|number| format!("down {number}")));
    expected.push("up again".to_owned());
    assert_eq!(out, expected);
    assert_eq!(
        said.lines()
            .filter(|line| text(line) == ("err", "trouble"))
            .count(),
        1
    );
    // The pipes go with their process.
    host.must(&["stop", "talker"]);
    wait_for("the pipes to go", || no_pipes(&host));
}

#[test]
fn a_following_goes_on_through_files_restarts_and_instances_until_it_is_ended() {
    let host = Host::start();
    let script = "seq 1 3000; exec sleep 1000";
    let more =
        "instances = 2\nready = \"line:3000\"\n[run.output]\nmax-size = \"64KiB\"\nkeep = 100";
    install(&host, "many", "foreign", script, more);
    host.must(&["start", "many"]);
    let mut follow = Command::new(env!("CARGO_BIN_EXE_insulactl"))
        .arg("--root")
        .arg(&host.root)
        .args(["logs", "many", "-f", "-n", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, followed) = mpsc::channel();
    let output = follow.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            if lines.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    // Whatever came before it looked is not followed; what comes after is, whole.
    let mut seen = [Vec::new(), Vec::new()];
    let mut rounds = 0;
    loop {
        host.must(&["restart", "many"]);
        rounds += 1;
        let of = |seen: &mut [Vec<u64>; 2], line: &str| {
            let (name, line) = line.split_once(" | ").unwrap();
            let index = usize::from(name == "many:1");
            seen[index].push(text(line).1.parse().unwrap());
        };
        while let Ok(line) = followed.recv_timeout(std::time::Duration::from_millis(300)) {
            of(&mut seen, &line);
        }
        if seen.iter().all(|seen| seen.len() >= 6_000) {
            break;
        }
        assert!(rounds < 100, "{:?}", seen.map(|seen| seen.len()));
    }
    for numbers in &seen {
        for pair in numbers.windows(2) {
            let next = if pair[0] == 3_000 { 1 } else { pair[0] + 1 };
            assert_eq!(pair[1], next, "a line is missing or out of order");
        }
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(follow.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(follow.wait().unwrap().code(), Some(0));

    // One instance, one attempt, the last lines of it.
    let last = host.must(&["logs", "many:1", "-n", "2"]);
    assert_eq!(texts(&last), ["2999", "3000"]);
    let attempt = last.split(' ').nth(1).unwrap();
    let own = host.must(&["logs", "many:1", "-n", "5000", "--attempt", attempt]);
    assert_eq!(texts(&own).len(), 3_000);
    let recent = host.must(&["logs", "many:1", "--since", "1h"]);
    assert!(texts(&recent).len() >= 6_000);
}

/// A small file system of its own, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        nix::mount::mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=256k"),
        )
        .unwrap();
        Self(at.to_owned())
    }

    fn enlarge(&self) {
        nix::mount::mount(
            None::<&str>,
            &self.0,
            None::<&str>,
            nix::mount::MsFlags::MS_REMOUNT,
            Some("size=64m"),
        )
        .unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_holds_up_nobody_and_says_how_much_is_missing() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED (needs root): a full disk holds up nobody");
        return;
    }
    let host = Host::start();
    let disk = Small::mount(&host.root.join("log"));
    let script = "if [ -e full ]; then echo after; else : > full; seq 1 20000; fi";
    install(&host, "full", "task", script, "");
    host.must(&["start", "full"]);
    host.wait_for_state("full", "EXITED");
    wait_for("its pipes to be empty", || no_pipes(&host));
    // What was read is written, or not, by the time of the answer.
    host.must(&["logs", "full", "-n", "1"]);
    disk.enlarge();
    host.must(&["stop", "full"]);
    host.must(&["start", "full"]);
    let all = wait_for("the line of its second run", || {
        let all = String::from_utf8(read(&host, "full")).unwrap();
        all.contains(" out after\n").then_some(all)
    });
    let kept: Vec<&str> = all
        .lines()
        .map(text)
        .filter_map(|(stream, text)| (stream == "out" && text != "after").then_some(text))
        .collect();
    let numbers: Vec<u32> = kept.iter().map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order");
    let dropped: usize = all
        .lines()
        .map(text)
        .filter(|(stream, _)| *stream == "log")
        .map(|(_, notice)| {
            let count = notice.strip_prefix("[insulad: ").unwrap().split(' ').next();
            count.unwrap().parse::<usize>().unwrap()
        })
        .sum();
    assert!(dropped > 0);
    assert_eq!(kept.len() + dropped, 20_000);
    assert!(host.daemon_log().contains("output cannot be written"));
    drop(disk);
}

#[test]
fn a_flood_without_end_keeps_its_size_and_its_neighbours_lines_arrive() {
    let host = Host::start();
    let limits = "[run.output]\nmax-size = \"64KiB\"\nkeep = 2";
    install(&host, "flood", "foreign", "exec yes flood", limits);
    let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    install(&host, "neighbour", "foreign", script, "");
    host.must(&["start", "flood"]);
    wait_for("the flood", || {
        directory(&host, "flood").exists().then_some(())
    });
    host.must(&["start", "neighbour"]);
    let all = wait_for("the neighbour's lines", || {
        let sizes: Vec<u64> = fs::read_dir(directory(&host, "flood"))
            .unwrap()
            // One may have gone meanwhile.
            .filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len()))
            .collect();
        // While the next one is begun there is one more.
        assert!(sizes.len() <= 3, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= 64 * 1024), "{sizes:?}");
        let all = fs::read_to_string(directory(&host, "neighbour").join("current")).ok()?;
        (all.lines().count() >= 50).then_some(all)
    });
    // The last one may not be there as a whole.
    let whole = &all[..all.rfind('\n').unwrap()];
    for (number, line) in texts(whole).into_iter().enumerate() {
        assert_eq!(line, (number + 1).to_string());
    }
}
