//! The figures as Markdown, to be pasted into README.md.

use crate::density::Dense;
use crate::measure::{Figure, Results, median};
use crate::storm::Weather;

/// The one that the others are compared with.
const FLOOR: &str = "bare posix_spawn loop";
const WALLS: &str = "insulad, all walls";
const BARE: &str = "insulad, no walls";

/// Prints a table for each number of services, then the rows of claims.
pub(crate) fn print(results: &Results, counts: &[usize]) {
    if !results.host.is_empty() {
        println!("\nWalls of this host, as `insulactl doctor` says:\n");
        for line in results.host.lines() {
            println!("    {line}");
        }
    }
    for count in counts {
        table(results, *count);
    }
    claims(results, counts);
}

fn shown(values: &[f64], digits: usize) -> String {
    let Some(middle) = median(values) else {
        return "-".to_owned();
    };
    let (least, most) = values
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
    if values.len() > 1 {
        format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})")
    } else {
        format!("{middle:.digits$}")
    }
}

fn table(results: &Results, count: usize) {
    let mut columns: Vec<(&str, Vec<(Figure, usize)>)> = vec![
        ("start all ms", vec![(Figure::Start, 0)]),
        (
            "kill -9 p50 / longest ms",
            vec![(Figure::Kill, 2), (Figure::KillLongest, 1)],
        ),
        ("restart ms", vec![(Figure::Restart, 1)]),
        ("100 killed ms", vec![(Figure::AtOnce, 0)]),
        ("stop all ms", vec![(Figure::Stop, 0)]),
        (
            "status / --json ms",
            vec![(Figure::Status, 1), (Figure::StatusJson, 1)],
        ),
        ("wake-ups/s", vec![(Figure::WakeUps, 1)]),
        ("of services/s", vec![(Figure::ServiceWakeUps, 1)]),
        (
            "adopted, in control ms",
            vec![(Figure::Answers, 0), (Figure::Control, 0)],
        ),
        ("disturbed", vec![(Figure::Disturbed, 0)]),
    ];
    let of = |name: &str, figures: &[(Figure, usize)]| {
        let texts: Vec<_> = figures
            .iter()
            .map(|(figure, digits)| shown(&results.all(count, name, *figure), *digits))
            .filter(|text| text != "-")
            .collect();
        match texts.is_empty() {
            true => "-".to_owned(),
            false => texts.join(" / "),
        }
    };
    // A column that nobody has a figure in says nothing.
    columns.retain(|(_, figures)| results.names.iter().any(|name| of(name, figures) != "-"));
    println!("\n{count} services; the median of the rounds, least and most in brackets:\n");
    let titles: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
    println!("| | {} | memory MB |", titles.join(" | "));
    println!("|---|{}---|", "---|".repeat(columns.len()));
    for name in &results.names {
        let cells: Vec<_> = columns
            .iter()
            .map(|(_, figures)| of(name, figures))
            .collect();
        let memory: Vec<_> = megabytes(&results.all(count, name, Figure::Memory));
        println!("| {name} | {} | {} |", cells.join(" | "), shown(&memory, 1));
    }
    println!("\nAgainst the bare loop, round by round:\n");
    println!("| | start all | kill -9 p50 | 100 killed | stop all |");
    println!("|---|---|---|---|---|");
    for name in results.names.iter().filter(|name| *name != FLOOR) {
        let cells: Vec<_> = [Figure::Start, Figure::Kill, Figure::AtOnce, Figure::Stop]
            .into_iter()
            .map(|figure| shown(&results.ratios(count, name, FLOOR, figure), 2))
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

fn megabytes(bytes: &[f64]) -> Vec<f64> {
    bytes.iter().map(|bytes| bytes / 1e6).collect()
}

/// The rows of the table of claims.
fn claims(results: &Results, counts: &[usize]) {
    let Some(most) = counts.iter().max() else {
        return;
    };
    let both = |figure| {
        let [bare, walls] =
            [BARE, WALLS].map(|name| shown(&results.ratios(*most, name, FLOOR, figure), 2));
        format!("{bare} without, {walls} with")
    };
    println!("\nRows for the table of claims, {most} services:\n");
    for (claim, reach, measured) in [
        (
            "kill -9 to the replacement's first instruction, against posix_spawn",
            "p50 at most 1.2x without walls, 2x with",
            both(Figure::Kill),
        ),
        (
            "starting all services, against the bare loop",
            "at most 1.3x without walls, 2x with",
            both(Figure::Start),
        ),
        (
            "100 instances killed at once, all back",
            "at most 1.3x the bare loop",
            both(Figure::AtOnce),
        ),
        (
            "supervisor memory",
            "at most 6 MB, and 2 KB per service",
            memory(results, counts),
        ),
        (
            "idle host",
            "no wake-ups",
            format!(
                "{} a second of the daemon, {} of all services",
                shown(&results.all(*most, WALLS, Figure::WakeUps), 1),
                shown(&results.all(*most, WALLS, Figure::ServiceWakeUps), 1)
            ),
        ),
        (
            "`insulactl status`",
            "at most 5 ms",
            format!(
                "{} ms; --json {} ms",
                shown(&results.all(*most, WALLS, Figure::Status), 1),
                shown(&results.all(*most, WALLS, Figure::StatusJson), 1)
            ),
        ),
        (
            "insulad killed with -9",
            "control again under 200 ms, no service disturbed",
            format!(
                "answers after {} ms, in control after {} ms, {} disturbed",
                shown(&results.all(*most, WALLS, Figure::Answers), 0),
                shown(&results.all(*most, WALLS, Figure::Control), 0),
                shown(&results.all(*most, WALLS, Figure::Disturbed), 0)
            ),
        ),
    ] {
        println!("| {claim} | {reach} | `supervision` | {measured} |");
    }
}

/// The empty daemon, and the slope from there to each number of services.
fn memory(results: &Results, counts: &[usize]) -> String {
    let slopes: Vec<_> = counts
        .iter()
        .filter_map(|count| {
            let base = median(&results.all(*count, WALLS, Figure::Base))?;
            let full = median(&results.all(*count, WALLS, Figure::Memory))?;
            Some(format!(
                "{:.1} MB empty, {:.1} KB per service at {count}",
                base / 1e6,
                (full - base) / 1e3 / *count as f64
            ))
        })
        .collect();
    slopes.join("; ")
}

/// Prints what the storm did.
pub(crate) fn print_storm(rounds: &[[Weather; 3]]) {
    println!("\n200 services that crash at once, beside one that is called; each for 10 s:\n");
    println!("| round | weather | calls | p50 us | p99 us | daemon, of a core | starts |");
    println!("|---|---|---|---|---|---|---|");
    for (round, weathers) in rounds.iter().enumerate() {
        for (name, weather) in ["calm", "outbreak", "storm"].iter().zip(weathers) {
            println!(
                "| {} | {name} | {} | {:.1} | {:.1} | {:.1} % | {} |",
                round + 1,
                weather.calls,
                weather.p50 as f64 / 1e3,
                weather.p99 as f64 / 1e3,
                weather.daemon * 100.0,
                weather.starts
            );
        }
    }
    let ratios = |of: usize| -> Vec<f64> {
        let ratio = |weathers: &[Weather; 3]| weathers[of].p99 as f64 / weathers[0].p99 as f64;
        rounds.iter().map(ratio).collect()
    };
    let daemon = |of: usize| -> Vec<f64> {
        let part = |weathers: &[Weather; 3]| weathers[of].daemon * 100.0;
        rounds.iter().map(part).collect()
    };
    println!("\nRow for the table of claims:\n");
    println!(
        "| a storm of 200 crashing services | p99 of others within 5 %, daemon under 20 % of a core \
         | `supervision` | p99 {}x, daemon {} %; in the 10 s from their first start {}x, {} % |",
        shown(&ratios(2), 2),
        shown(&daemon(2), 1),
        shown(&ratios(1), 2),
        shown(&daemon(1), 1)
    );
}

pub(crate) fn print_density(found: &[Dense], count: usize) {
    println!("\n{count} services each; memory in KiB for a service:\n");
    println!(
        "| | start ms | proportional | own | supervisor | of the host | idle, of a core | wake-ups/s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let each = |bytes: u64| bytes as f64 / 1024.0 / count as f64;
    for dense in found {
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} | {:.2} % | {:.1} |",
            dense.name,
            dense.start,
            each(dense.services.proportional),
            each(dense.services.own),
            each(dense.supervisor.proportional),
            each(dense.host),
            dense.idle * 100.0,
            dense.wake_ups
        );
    }
    let Some(native) = found.first() else { return };
    println!("\nRow for the table of claims:\n");
    println!(
        "| {count} small real services | each under 1 MB proportional, idle under 2 % of a core | \
         `supervision` | {:.2} MB, {:.2} % |",
        each(native.services.proportional + native.supervisor.proportional) * 1024.0 / 1e6,
        native.idle * 100.0
    );
}
