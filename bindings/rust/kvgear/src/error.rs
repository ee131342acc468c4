//! What a failed call says.
use std::ffi::CStr;
use std::fmt;

use kvgear_sys as sys;

use crate::Status;

/// The result of every call that may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. A call that fails changes nothing: every cache is as it was before the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    message: String,
}

impl Error {
    /// The kind of the failure.
    pub fn status(&self) -> Status {
        self.status
    }

    /// One sentence on what is wrong and what to change.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Status::Invalid, message)
    }

    /// `message` is what the library wrote; it need not be UTF-8 nor terminated.
    pub(crate) fn from_c(status: sys::kvg_status, message: &[u8]) -> Self {
        let status = Status::from_raw(status);
        let text = CStr::from_bytes_until_nul(message).map_or(message, CStr::to_bytes);
        match String::from_utf8_lossy(text) {
            text if text.is_empty() => {
                Self::new(status, format!("libkvgear gave the status {}", status.raw()))
            }
            text => Self::new(status, text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<sys::LoadError> for Error {
    fn from(error: sys::LoadError) -> Self {
        let status = match &error {
            sys::LoadError::NotFound(_) | sys::LoadError::CannotOpen { .. } => Status::Io,
            sys::LoadError::AlreadyLoaded(_) => Status::State,
            _ => Status::Unsupported,
        };
        Self::new(status, error.to_string())
    }
}

/// The name that C has for it, such as `KVG_E_INVALID`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if crate::load().is_err() {
            return write!(f, "{self:?}");
        }
        // SAFETY: gives a static string for every number.
        let name = unsafe { CStr::from_ptr(sys::kvg_status_string(self.raw())) };
        f.write_str(&name.to_string_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_library() {
        let error = Error::from_c(sys::KVG_E_LIMIT, b"too much\0rest");
        assert_eq!((error.status(), error.message()), (Status::Limit, "too much"));
        assert_eq!(error.to_string(), "too much");
        assert_eq!(Error::from_c(7, b"no end").message(), "no end");
        assert_eq!(Error::from_c(7, b"\xff!\0").message(), "\u{fffd}!");
        let unknown = Error::from_c(4242, b"\0");
        assert_eq!(unknown.status(), Status::Unknown(4242));
        assert_eq!(unknown.message(), "libkvgear gave the status 4242");
    }

    #[test]
    fn every_status_goes_to_c_and_back() {
        for raw in (0..=200).chain([-1, i32::MIN, i32::MAX]) {
            assert_eq!(Status::from_raw(raw).raw(), raw);
        }
        assert_eq!(Status::from_raw(sys::KVG_E_INTERNAL), Status::Internal);
    }

    #[test]
    fn load_errors_have_a_status() {
        let error = Error::from(sys::LoadError::Version { oldest: 8, newest: 9 });
        assert_eq!(error.status(), Status::Unsupported);
        assert!(error.message().contains("8 to 9"));
        assert_eq!(Error::from(sys::LoadError::NotFound(vec![])).status(), Status::Io);
    }
}
