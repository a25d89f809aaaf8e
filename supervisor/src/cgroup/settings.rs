//! What is written into which file of a cgroup for some limits; nothing is done here.

use insula_core::limits::Resources;

/// Of the controllers, those that instances need; others are a profile's at most.
pub(super) const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Microseconds in which a process may use its share of the processors; the kernel's own choice.
const PERIOD: u64 = 100_000;

/// A line for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The key that asks for it.
    pub(super) key: &'static str,
    /// The controller that enforces it.
    pub(super) controller: &'static str,
    /// The file in the cgroup.
    pub(super) file: &'static str,
    /// What goes into it.
    pub(super) text: String,
}

/// For the cgroup of all services of a profile: what has a meaning only beside other profiles.
///
/// A group in the idle class has no weight. Without that, what runs in the idle class within the
/// group is beside those of others as good as anybody.
pub(super) fn of_profile(profile: &Resources, best_effort: bool) -> Vec<Setting> {
    let idle = best_effort.then(|| Setting {
        key: "best-effort",
        controller: "cpu",
        file: "cpu.idle",
        text: "1".to_owned(),
    });
    weights(profile)
        .into_iter()
        .filter(|setting| !best_effort || setting.controller != "cpu")
        .chain(idle)
        .collect()
}

/// For the cgroup of an instance.
pub(super) fn of_instance(holds: &Resources) -> Vec<Setting> {
    let of_memory = |key, file, bytes: Option<u64>| {
        bytes.map(|bytes| Setting {
            key,
            controller: "memory",
            file,
            text: bytes.to_string(),
        })
    };
    // Half of a service is no service: it goes as a whole, and comes back as a whole.
    let group = holds.memory_max.map(|_| Setting {
        key: "memory-max",
        controller: "memory",
        file: "memory.oom.group",
        text: "1".to_owned(),
    });
    let pids = holds.pids_max.map(|count| Setting {
        key: "pids-max",
        controller: "pids",
        file: "pids.max",
        text: count.to_string(),
    });
    let cpu = holds.cpu_max.map(|thousandths| Setting {
        key: "cpu-max",
        controller: "cpu",
        file: "cpu.max",
        text: format!("{} {PERIOD}", thousandths * PERIOD / 1_000),
    });
    of_memory("memory-high", "memory.high", holds.memory_high)
        .into_iter()
        .chain(of_memory("memory-max", "memory.max", holds.memory_max))
        .chain(group)
        .chain(pids)
        .chain(cpu)
        .chain(weights(holds))
        .collect()
}

fn weights(of: &Resources) -> Vec<Setting> {
    let weight = |key, controller, file, weight: Option<u64>| {
        weight.map(|weight| Setting {
            key,
            controller,
            file,
            text: weight.to_string(),
        })
    };
    weight("cpu-weight", "cpu", "cpu.weight", of.cpu_weight)
        .into_iter()
        .chain(weight("io-weight", "io", "io.weight", of.io_weight))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_file() {
        let all = Resources {
            memory_high: Some(48 << 20),
            memory_max: Some(64 << 20),
            pids_max: Some(20),
            cpu_max: Some(1_500),
            cpu_weight: Some(50),
            io_weight: Some(10),
            ..Resources::default()
        };
        let written: Vec<_> = of_instance(&all)
            .into_iter()
            .map(|setting| format!("{}={}", setting.file, setting.text))
            .collect();
        let expected = [
            "memory.high=50331648",
            "memory.max=67108864",
            "memory.oom.group=1",
            "pids.max=20",
            "cpu.max=150000 100000",
            "cpu.weight=50",
            "io.weight=10",
        ];
        assert_eq!(written, expected);
        assert_eq!(of_instance(&Resources::default()), []);
        let of_all = |best_effort| -> Vec<_> {
            let written = of_profile(&all, best_effort).into_iter();
            written.map(|setting| setting.file).collect()
        };
        assert_eq!(of_all(false), ["cpu.weight", "io.weight"]);
        assert_eq!(of_all(true), ["io.weight", "cpu.idle"]);
    }
}
