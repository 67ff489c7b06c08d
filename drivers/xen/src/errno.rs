//! Error numbers as Xen returns them from hypercalls (`public/errno.h`) and xenstored names them.

/// A Xen error number, positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Self = Self($number);)*

            /// The symbolic name, if it is one that Xen or xenstored uses.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }

            /// The number that xenstored means by `name`.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self($number)),)* _ => None }
            }
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EIO = 5, E2BIG = 7, EBADF = 9, EAGAIN = 11, ENOMEM = 12,
    EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17, ENODEV = 19, EISDIR = 21, EINVAL = 22,
    ENOSPC = 28, EROFS = 30, ENOSYS = 38, ENOTEMPTY = 39, EISCONN = 106, EOPNOTSUPP = 95,
    EQUOTA = 122,
}

impl Errno {
    /// A hypercall's return value as a result.
    ///
    /// # Errors
    /// Negative values, negated.
    pub fn check(value: i64) -> Result<i64, Self> {
        if value < 0 {
            Err(Self(i32::try_from(-value).unwrap_or(Self::EINVAL.0)))
        } else {
            Ok(value)
        }
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl core::error::Error for Errno {}
