//! The domains that Xen knows, by `xl list -v`: also those that lost their name, their xenstore nodes
//! or both, as after a `xl create` or `xl destroy` that was cut off. A domain is known by its UUID;
//! a name can be given to another.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::host::{Call, Host, noted};

/// How long a domain may take to vanish once `xl destroy` has ended.
const VANISH: Duration = Duration::from_secs(5);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(250);
/// How often `xl destroy` is tried: one that was cut off leaves the rest to the next.
const TRIES: u32 = 2;

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    /// Its number.
    pub(crate) id: u32,
    /// Its name, `(null)` if xl has none for it.
    pub(crate) name: String,
    /// Its UUID.
    pub(crate) uuid: String,
}

/// All domains but those that have ended and only wait for others to unmap their memory: their
/// devices are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domains(Vec<Domain>);

impl Domains {
    /// Looks which there are.
    ///
    /// # Errors
    /// If xl does not answer, or not as expected.
    pub(crate) fn look(host: &mut impl Host) -> Result<Self> {
        let text = host.run(&Call::look("xl", ["list", "-v"]))?;
        let mut domains = Vec::new();
        for line in text.lines().skip(1) {
            let parsed = parse(line);
            ensure!(
                parsed.is_some(),
                "`xl list -v` says what is no domain: \"{line}\""
            );
            domains.extend(parsed.filter(|(_, ended)| !ended).map(|(domain, _)| domain));
        }
        // Without it the answer is none.
        ensure!(
            domains.iter().any(|domain| domain.id == 0),
            "`xl list -v` does not list dom0, in which it ran"
        );
        Ok(Self(domains))
    }

    /// The domain with this UUID.
    pub(crate) fn by_uuid(&self, uuid: &str) -> Option<&Domain> {
        self.0
            .iter()
            .find(|domain| domain.uuid.eq_ignore_ascii_case(uuid))
    }

    /// The domain of this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Domain> {
        self.0.iter().find(|domain| domain.name == name)
    }

    /// All but dom0.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Domain> {
        self.0.iter().filter(|domain| domain.id != 0)
    }

    /// The domain with this number.
    pub(crate) fn by_id(&self, id: u32) -> Option<&Domain> {
        self.0.iter().find(|domain| domain.id == id)
    }
}

/// Whether this is a UUID as xl and the kernel write one.
pub(crate) fn is_uuid(word: &str) -> bool {
    let fits = |(at, c): (usize, char)| match [8, 13, 18, 23].contains(&at) {
        true => c == '-',
        false => c.is_ascii_hexdigit(),
    };
    word.len() == 36 && word.char_indices().all(fits)
}

/// A line: name, ID, Mem, VCPUs, State, Time(s), UUID, and more. Only the name may hold anything.
/// Also gives whether the domain has ended.
fn parse(line: &str) -> Option<(Domain, bool)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // The last one: what stands before it may be a name.
    let at = words.iter().rposition(|word| is_uuid(word))?;
    let [id, _, _, state, _] = words.get(at.checked_sub(5)?..at)? else {
        return None;
    };
    let domain = Domain {
        id: id.parse().ok()?,
        name: words[..at - 5].join(" "),
        uuid: words[at].to_string(),
    };
    // The last letter of the state is for a domain that is as good as gone.
    Some((domain, state.ends_with('d')))
}

/// Whether a domain is there.
///
/// # Errors
/// If xl does not answer.
pub(crate) fn is_alive(host: &mut impl Host, domain: &Domain) -> Result<bool> {
    Ok(Domains::look(host)?.by_uuid(&domain.uuid).is_some())
}

/// Destroys a domain, and makes sure that it is gone. One that has ended by itself by then is no
/// failure.
///
/// # Errors
/// If it is still there, or if that cannot be found out.
pub(crate) fn kill(host: &mut impl Host, domain: &Domain) -> Result<()> {
    let id = domain.id.to_string();
    let mut cause = None;
    for _ in 0..TRIES {
        let tried = host.run(&Call::xl(["destroy", &id]));
        cause = tried.err().map(anyhow::Error::from).or(cause);
        let deadline = host.now().saturating_add(VANISH);
        loop {
            match is_alive(host, domain) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(error) => cause = Some(error),
            }
            if host.now() >= deadline {
                break;
            }
            host.sleep(LOOK);
        }
    }
    let cause = cause.unwrap_or_else(|| anyhow::anyhow!("`xl destroy {id}` had no effect"));
    let (name, uuid) = (&domain.name, &domain.uuid);
    Err(noted(
        &cause,
        format_args!("domain {id} ({name}, {uuid}) may still run, with its disks"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Failure, Fake};

    const UUID: &str = "0a1b2c3d-0000-4000-8000-000000000001";

    #[test]
    fn names_may_hold_anything_and_domains_that_have_ended_do_not_count() {
        let line = format!("a b 7 7 64 1 -b---- 0.1 {UUID} - none");
        let (domain, ended) = parse(&line).expect("a domain");
        assert_eq!((domain.id, domain.name.as_str()), (7, "a b 7"));
        assert!(domain.uuid == UUID && !ended);
        let line = format!("(null)  12  0 3  --ps-d  9.1 {UUID} 0 -");
        assert!(parse(&line).expect("a domain").1);
        for line in ["", "x 1 64 1 -b---- 0.1", UUID, "x y 64 1 -b---- 0.1"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let mut host = Fake::with_nvme("nvme");
        assert!(Domains::look(&mut host).is_ok());
        for failure in [Failure::Before, Failure::Lie] {
            host.failures.clear();
            host.fail(0, failure);
            assert!(Domains::look(&mut host).is_err(), "{failure:?}");
        }
    }
}
