//! What a scenario's script says about itself in its first line: `# scenario: KEY=VALUE ...`, with
//!
//! - `seconds`: how long it may take;
//! - `core=yes`: it is played on the older suite, too, and in every CI;
//! - `backend=any`: it means something with Linux' backend as well;
//! - `machine`: the machine that it is for, if that is not the usual one;
//! - `host`: what the host has to do with it, if anything;
//! - `last=yes`: the machine is fit for nothing else afterwards;
//! - `asked=yes`: it is played only where it is asked for by name.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Host;
use crate::rig::{Mark, Variant};

/// How the line begins.
const BEGIN: &str = "# scenario: ";

/// The keys that there are.
const KEYS: [&str; 7] = [
    "seconds", "core", "backend", "machine", "host", "last", "asked",
];

/// What the line says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Facts {
    pub(super) timeout: Duration,
    pub(super) core: bool,
    pub(super) any_backend: bool,
    pub(super) variant: Variant,
    pub(super) host: Host,
    pub(super) last: bool,
    pub(super) asked: bool,
}

impl Facts {
    /// From the first line of a script.
    ///
    /// # Errors
    /// There is no such line, or what it says has no meaning.
    pub(super) fn of(script: &str) -> Result<Self> {
        let line = script.lines().next().unwrap_or_default();
        let said = line.strip_prefix(BEGIN);
        let said = said.with_context(|| format!("the first line does not begin with {BEGIN:?}"))?;
        // A mark has a name before its fields.
        let said = Mark::parse(&format!("scenario {said}")).context("nothing is said")?;
        if let Some(unknown) = said.keys().find(|key| !KEYS.contains(key)) {
            bail!("there is no {unknown}=");
        }
        let is_set = |key: &str, word: &str| match said.get(key) {
            "" => Ok(false),
            value if value == word => Ok(true),
            value => bail!("{key}={value} where only {key}={word} has a meaning"),
        };
        let seconds = said.get("seconds").parse().context("seconds=")?;
        ensure!(seconds > 0, "seconds=0");
        Ok(Self {
            timeout: Duration::from_secs(seconds),
            core: is_set("core", "yes")?,
            any_backend: is_set("backend", "any")?,
            last: is_set("last", "yes")?,
            asked: is_set("asked", "yes")?,
            variant: match said.get("machine") {
                "" => Variant::Usual,
                "odd-controllers" => Variant::OddControllers,
                "intel-iommu" => Variant::IntelIommu,
                other => bail!("there is no machine {other}"),
            },
            host: match said.get("host") {
                "" => Host::Idle,
                "file-tree" => Host::FileTree,
                "virtio" => Host::Virtio,
                "flush-durable" => Host::FlushDurable,
                other => bail!("the host has no part {other}"),
            },
        })
    }

    /// The order in which scenarios are played: those for one machine together, the ones that end it
    /// last, and before that the ones with the shortest time.
    pub(super) fn place(&self) -> (u8, bool, Duration) {
        let machine = match self.variant {
            Variant::Usual => 0,
            Variant::OddControllers => 1,
            Variant::IntelIommu => 2,
        };
        let ends = self.last || matches!(self.host, Host::FlushDurable);
        (machine, ends, self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_the_usual() -> Result<()> {
        let plain = Facts::of("# scenario: seconds=120\n# What it does.\n")?;
        let expected = Facts {
            timeout: Duration::from_secs(120),
            core: false,
            any_backend: false,
            variant: Variant::Usual,
            host: Host::Idle,
            last: false,
            asked: false,
        };
        assert_eq!(plain, expected);
        let all = "# scenario: seconds=9 core=yes backend=any machine=intel-iommu host=virtio last=yes asked=yes";
        let expected = Facts {
            timeout: Duration::from_secs(9),
            core: true,
            any_backend: true,
            variant: Variant::IntelIommu,
            host: Host::Virtio,
            last: true,
            asked: true,
        };
        assert_eq!(Facts::of(all)?, expected);
        Ok(())
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (line, why) in [
            ("# What it does.", "first line"),
            ("# scenario: core=yes", "seconds="),
            ("# scenario: seconds=0", "seconds=0"),
            ("# scenario: seconds=9 cores=yes", "no cores="),
            ("# scenario: seconds=9 core=no", "core=yes"),
            ("# scenario: seconds=9 machine=big", "machine big"),
            ("# scenario: seconds=9 host=all", "part all"),
        ] {
            let error = Facts::of(line).expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
