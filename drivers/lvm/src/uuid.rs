//! LVM's identifiers: 32 characters, in text in groups with hyphens between.

use core::fmt::{self, Display, Formatter, Write as _};

/// The identifier of a physical volume, a volume group or a logical volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LvmUuid([u8; 32]);

impl LvmUuid {
    /// From its 32 characters, without hyphens; `None` if one of them is no letter, digit, `!` or `#`.
    #[must_use]
    pub fn new(characters: [u8; 32]) -> Option<Self> {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#');
        characters.iter().all(fits).then_some(Self(characters))
    }

    /// From text, in which hyphens may stand anywhere.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let mut characters = [0; 32];
        let mut from = text.iter().filter(|byte| **byte != b'-');
        for place in &mut characters {
            *place = *from.next()?;
        }
        from.next().is_none().then(|| Self::new(characters))?
    }

    /// One that follows from these bytes, and another one from others.
    pub(crate) fn derived(seed: impl IntoIterator<Item = u8>) -> Self {
        const LETTERS: &[u8; 62] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        // FNV-1a, and a step of it for each character.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let mut hash = seed.into_iter().fold(0xcbf2_9ce4_8422_2325, step);
        let mut characters = [0; 32];
        for (place, round) in characters.iter_mut().zip(0..) {
            hash = step(hash, round);
            let mixed = hash ^ hash >> 32;
            *place = LETTERS[(mixed % 62) as usize];
        }
        Self(characters)
    }

    /// Its characters, without hyphens.
    #[must_use]
    pub fn characters(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// As LVM prints it: groups of 6, five times 4, and 6 characters.
impl Display for LvmUuid {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if (6..=26).contains(&index) && (index - 6).is_multiple_of(4) {
                f.write_char('-')?;
            }
            f.write_char(char::from(*byte))?;
        }
        Ok(())
    }
}
