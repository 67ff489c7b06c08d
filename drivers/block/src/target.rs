//! Targets: which volume a guest's `target=` names, and who may have it.
//!
//! libxl checks nothing of a target on another domain's disk, so two guests that are given the
//! same one are told apart only here.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Volume;

/// What somebody wants of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read it; nobody else may write.
    Read,
    /// Write it; nobody else may have it.
    Write,
    /// Write it, whoever else has it: the guests have agreed on how (xl's `w!`).
    SharedWrite,
}

/// Why a volume was not given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No volume of that name.
    #[error("no such target \"{wanted}\"; have {}", list(.have))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// Somebody else has it, and one of the two wants to write.
    #[error("target \"{name}\" is in use by {holder}, and not by readers only")]
    InUse {
        /// The volume.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// Asked for writing, but the disk refuses writes.
    #[error("target \"{0}\" is read-only; attach it with access=ro")]
    ReadOnly(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "no disk at all".to_string()
    } else {
        names.join(", ")
    }
}

/// A volume in use, from [`Targets::claim`] to [`Targets::release`].
#[derive(Debug)]
struct Claim {
    volume: usize,
    holder: String,
    usage: Use,
}

/// All volumes, and who has them.
#[derive(Debug, Default)]
pub struct Targets {
    volumes: Vec<Volume>,
    claims: Vec<Claim>,
}

impl Targets {
    /// The table of `volumes`, all free.
    #[must_use]
    pub fn new(volumes: Vec<Volume>) -> Self {
        Self {
            volumes,
            claims: Vec::new(),
        }
    }

    /// All volumes.
    #[must_use]
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// Gives `holder` the volume named `target`, with or without `/dev/`.
    ///
    /// # Errors
    /// See [`TargetError`]; nothing is claimed then.
    pub fn claim(
        &mut self,
        target: &str,
        usage: Use,
        holder: &str,
    ) -> Result<&Volume, TargetError> {
        let name = target.strip_prefix("/dev/").unwrap_or(target);
        let Some(index) = self.volumes.iter().position(|volume| volume.name == name) else {
            let have = self
                .volumes
                .iter()
                .map(|volume| volume.name.clone())
                .collect();
            return Err(TargetError::Unknown {
                wanted: target.to_string(),
                have,
            });
        };
        let volume = &self.volumes[index];
        if usage != Use::Read && volume.read_only {
            return Err(TargetError::ReadOnly(volume.name.clone()));
        }
        let conflict = |claim: &&Claim| {
            let exclusive = usage == Use::Write || claim.usage != Use::Read;
            claim.volume == index
                && claim.holder != holder
                && usage != Use::SharedWrite
                && exclusive
        };
        if let Some(claim) = self.claims.iter().find(conflict) {
            let holder = claim.holder.clone();
            return Err(TargetError::InUse {
                name: volume.name.clone(),
                holder,
            });
        }
        self.release(holder);
        self.claims.push(Claim {
            volume: index,
            holder: holder.to_string(),
            usage,
        });
        Ok(&self.volumes[index])
    }

    /// Takes back whatever `holder` has.
    pub fn release(&mut self, holder: &str) {
        self.claims.retain(|claim| claim.holder != holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unit;

    fn targets() -> Targets {
        let volume = |name: &str, read_only| Volume {
            name: name.to_string(),
            aliases: Vec::new(),
            disk: 0,
            unit: Unit(1),
            start: 0,
            sectors: 8,
            block_shift: 9,
            physical_block_shift: 9,
            read_only,
            write_cache: false,
            discard: None,
            description: String::new(),
        };
        Targets::new([volume("nvme0n1", false), volume("ram0", true)].into())
    }

    #[test]
    fn a_target_is_found_with_and_without_dev() {
        let mut targets = targets();
        assert_eq!(
            targets
                .claim("/dev/nvme0n1", Use::Write, "1/51712")
                .unwrap()
                .name,
            "nvme0n1"
        );
        assert_eq!(
            targets.claim("ram0", Use::Read, "1/51728").unwrap().name,
            "ram0"
        );
    }

    #[test]
    fn an_unknown_target_is_told_what_there_is() {
        let error = targets()
            .claim("/dev/sda", Use::Write, "1/51712")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no such target \"/dev/sda\"; have nvme0n1, ram0"
        );
        let error = Targets::default()
            .claim("x", Use::Write, "1/51712")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no such target \"x\"; have no disk at all"
        );
    }

    #[test]
    fn a_writer_is_alone_and_readers_share() {
        let mut targets = targets();
        targets.claim("nvme0n1", Use::Read, "1/51712").unwrap();
        targets.claim("nvme0n1", Use::Read, "2/51712").unwrap();
        assert!(matches!(
            targets.claim("nvme0n1", Use::Write, "3/51712"),
            Err(TargetError::InUse { holder, .. }) if holder == "1/51712"
        ));
        targets.release("1/51712");
        targets.release("2/51712");
        targets.claim("nvme0n1", Use::Write, "3/51712").unwrap();
        assert!(targets.claim("nvme0n1", Use::Read, "1/51712").is_err());
        targets.claim("nvme0n1", Use::Write, "3/51712").unwrap();
    }

    #[test]
    fn a_guest_that_asks_to_share_writing_gets_it() {
        let mut targets = targets();
        targets.claim("nvme0n1", Use::Write, "1/51712").unwrap();
        targets
            .claim("nvme0n1", Use::SharedWrite, "2/51712")
            .unwrap();
        assert!(targets.claim("nvme0n1", Use::Write, "3/51712").is_err());
    }

    #[test]
    fn a_write_protected_disk_is_only_given_to_readers() {
        let error = targets().claim("ram0", Use::Write, "1/51712").unwrap_err();
        assert_eq!(error, TargetError::ReadOnly("ram0".to_string()));
    }
}
