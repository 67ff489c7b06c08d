//! What a pause consists of: when each life of Spindle's kernel got how far, by its console.

/// Steps of a life, in seconds from the death before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LifeParts {
    /// The image is back, and the clock runs.
    pub(super) image: f64,
    /// All disks have been found.
    pub(super) disks: Option<f64>,
    /// It serves.
    pub(super) ready: Option<f64>,
    /// The first device's rings are taken up.
    pub(super) rings: Option<f64>,
}

/// Of each life on a console that followed a death.
pub(super) fn of(console: &str) -> Vec<LifeParts> {
    let mut lives: Vec<LifeParts> = Vec::new();
    for (at, text) in console.lines().filter_map(stamped) {
        if let Some(ago) = ago(text) {
            lives.push(LifeParts {
                image: ago,
                ..LifeParts::default()
            });
        }
        let Some(life) = lives.last_mut() else {
            continue;
        };
        let since = Some(life.image + at);
        if text.starts_with("disk ") && life.ready.is_none() {
            life.disks = since;
        } else if text.starts_with("ready, ") {
            life.ready = life.ready.or(since);
        } else if text.contains(" rings of ") {
            life.rings = life.rings.or(since);
        }
    }
    lives
}

/// A line of the log with its time in seconds.
fn stamped(line: &str) -> Option<(f64, &str)> {
    let (at, text) = line.strip_prefix('[')?.split_once("] ")?;
    Some((at.trim().parse().ok()?, text.trim_end()))
}

/// How long ago the last life ended, in seconds, if a line says so.
fn ago(text: &str) -> Option<f64> {
    let text = text.strip_prefix("ERROR: life ")?.strip_suffix(" us ago")?;
    let micros: f64 = text.rsplit(' ').next()?.parse().ok()?;
    Some(micros / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_after_the_first_has_its_steps() {
        let console = "[    0.100] disk nvme0n1: 256 MiB\r\n[    0.217] ready, 217 ms after boot\r\n\
            \r\n[    0.000] ERROR: life 2: the last one ended after 43 s on core 1 by panic, 500000 us ago\r\n\
            [    1.250] disk nvme0n1: 256 MiB\r\n[    1.500] disk nvme0n2: 64 MiB\r\n\
            former life: [    9.000] ready, 217 ms after boot\r\n\
            [    1.750] ready, 1750 ms after boot\r\n[    2.000] 2/51712: 2 rings of 1 pages on cores 1, 2\r\n\
            [    7.000] 3/51712: 2 rings of 1 pages on cores 1, 2\r\n[    8.000] disk nvme0n3: new\r\n\
            [    0.000] ERROR: life 3: the last one ended after 9 s on core 0 by NMI, 250000 us ago\r\n[ odd\r\n";
        let second = LifeParts {
            image: 0.5,
            disks: Some(2.0),
            ready: Some(2.25),
            rings: Some(2.5),
        };
        let third = LifeParts {
            image: 0.25,
            ..LifeParts::default()
        };
        assert_eq!(of(console), [second, third]);
        assert!(of("").is_empty());
    }
}
