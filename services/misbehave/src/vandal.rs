//! A declared consumer that breaks what it can reach of its own channel.
//!
//! It calls like any other, and waits for a file `deed` in its working directory: the name of a deed
//! and the directory of the channel of its process and the provider's. It removes the file, does the
//! deed, prints `done`, and goes on calling. It may end by its own deed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use insula::Service;
use insula::ipc::client::CallOptions;

use crate::forms::first;

/// What is done to the files of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deed {
    /// Every file is cut to nothing.
    Truncate,
    /// Every file is cut to its half.
    Cut,
    /// All of it is removed.
    Unlink,
    /// In the place of every file of both ends comes one of the vandal's own.
    Impersonate,
    /// Words of every file are overwritten, many times.
    Scribble,
    /// Files are made until no more can be.
    Fill,
    /// Calls are made, and their sender stops for ever in the middle of them.
    Silence,
}

/// Threads that call.
const CALLERS: usize = 2;
/// How long each call is waited for.
const DEADLINE: Duration = Duration::from_millis(200);
/// How often all files are scribbled on.
const ROUNDS: u64 = 50;

pub(crate) fn run() -> ExitCode {
    Service::new().requires::<first::Form>().run(|context| {
        let runtime = context.runtime();
        for _ in 0..CALLERS {
            let edge = runtime.edge::<first::Form>(Duration::from_secs(60))?;
            thread::spawn(move || {
                let Ok(client) = first::FormClient::connect(&edge) else {
                    return;
                };
                let options = CallOptions {
                    deadline: Some(DEADLINE),
                    ..CallOptions::default()
                };
                loop {
                    let text = insula::Text::new("some text");
                    // What becomes of a vandal's calls is nobody's concern.
                    let _ = client.measure_with(&first::Text { text }, options);
                }
            });
        }
        thread::spawn(|| {
            loop {
                match next() {
                    Ok(Some((deed, channel))) => {
                        commit(deed, &channel);
                        println!("done");
                        if deed == Deed::Silence {
                            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => println!("error: {error}"),
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        runtime.ready();
        runtime.wait_for_stop();
        Ok(())
    })
}

fn next() -> io::Result<Option<(Deed, PathBuf)>> {
    let text = match fs::read_to_string("deed") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    fs::remove_file("deed")?;
    let (name, channel) = text.trim().split_once(' ').unwrap_or((&text, ""));
    let deed = Deed::from_str(name, true).map_err(io::Error::other)?;
    Ok(Some((deed, channel.into())))
}

/// Does it as far as it goes: others change the same files.
fn commit(deed: Deed, channel: &Path) {
    match deed {
        Deed::Truncate | Deed::Cut => {
            for file in files(channel).iter().filter_map(|path| open(path)) {
                let length = file.metadata().map_or(0, |metadata| metadata.len());
                let _ = file.set_len(if deed == Deed::Cut { length / 2 } else { 0 });
            }
        }
        Deed::Unlink => {
            let _ = fs::remove_dir_all(channel);
        }
        Deed::Impersonate => {
            for path in files(channel) {
                let _ = fs::remove_file(&path);
                let _ = fs::write(&path, [0x5a; 4096]);
            }
        }
        Deed::Scribble => {
            let files: Vec<_> = files(channel)
                .iter()
                .filter_map(|path| open(path))
                .collect();
            let mut chance = u64::from(std::process::id());
            for _ in 0..ROUNDS {
                files.iter().for_each(|file| scribble(file, &mut chance));
            }
        }
        Deed::Fill => {
            let made = (0_u64..).take_while(|number| {
                let file = File::create(channel.join(format!("filling-{number}")));
                file.and_then(|mut file| file.write_all(b"full")).is_ok()
            });
            println!("{} files", made.count());
        }
        Deed::Silence => {}
    }
}

/// Overwrites a quarter of a file's words, mostly with small numbers, which pass for lengths,
/// indices and flags.
fn scribble(file: &File, chance: &mut u64) {
    let words = file.metadata().map_or(0, |metadata| metadata.len()) / 8;
    for _ in 0..(words / 4).min(4096) {
        // Knuth's linear congruence; its upper bits are good enough.
        *chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (at, value) = ((*chance >> 20) % words, *chance >> 58);
        let _ = file.write_at(&value.to_ne_bytes(), at * 8);
    }
}

fn open(path: &Path) -> Option<File> {
    File::options().read(true).write(true).open(path).ok()
}

/// All plain files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    all
}
