//! What real controllers do that no specification allows, or that a driver easily forgets: a list
//! of lasting traits, for tests and fuzz targets to choose from. What happens once is a
//! [`super::Fault`].

/// A trait of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// Reads and writes that begin at this block are never answered, nor can they be aborted.
    Poison(u64),
    /// Reads and writes that begin at this block make CSTS.CFS appear; nothing is answered from
    /// then on.
    Crash(u64),
    /// Admin commands with this opcode are never answered.
    SilentAdmin(u8),
    /// CSTS reads as all ones so often after a change of CC.EN.
    BlindAfterChange(u32),
    /// NOIOB of the namespace with this identifier, in blocks. That a command crosses such a
    /// boundary is noted as a violation if the distance is 16 KiB at least.
    Boundary(u32, u16),
    /// CRTO.CRWMT in 500 ms units, with the bit in CAP.CRMS that says so.
    ReadyTimeout(u16),
}

/// All traits of a controller.
#[derive(Clone, Debug, Default)]
pub struct Quirks(Vec<Quirk>);

impl Quirks {
    /// Whether the controller has this trait.
    #[must_use]
    pub fn has(&self, quirk: Quirk) -> bool {
        self.0.contains(&quirk)
    }

    /// NOIOB of namespace `id`, 0 if it has none.
    pub(super) fn boundary(&self, id: u32) -> u16 {
        let found = self.find(|quirk| match quirk {
            Quirk::Boundary(namespace, blocks) if namespace == id => Some(blocks),
            _ => None,
        });
        found.unwrap_or(0)
    }

    /// What `pick` finds first.
    pub(super) fn find<T>(&self, pick: impl Fn(Quirk) -> Option<T>) -> Option<T> {
        self.0.iter().copied().find_map(pick)
    }
}

impl From<Vec<Quirk>> for Quirks {
    fn from(quirks: Vec<Quirk>) -> Self {
        Self(quirks)
    }
}

impl<const N: usize> From<[Quirk; N]> for Quirks {
    fn from(quirks: [Quirk; N]) -> Self {
        Self(quirks.into())
    }
}
