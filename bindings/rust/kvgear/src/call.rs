//! The ways of the C interface with errors, texts and structs, each in one place.
use std::ffi::{c_char, CString};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use kvgear_sys as sys;

use crate::{Error, Result, Status};

/// Makes a call that takes a `kvg_error *`. On success the error is never touched, so it is not zeroed.
#[inline]
pub(crate) fn call(f: impl FnOnce(*mut sys::kvg_error) -> sys::kvg_status) -> Result<()> {
    let mut error = MaybeUninit::<sys::kvg_error>::uninit();
    match f(error.as_mut_ptr()) {
        sys::KVG_OK => Ok(()),
        // SAFETY: a call that fails fills the error in.
        status => Err(failure(status, unsafe { error.assume_init_ref() })),
    }
}

#[cold]
fn failure(status: sys::kvg_status, error: &sys::kvg_error) -> Error {
    let message: Vec<u8> = error.message.iter().map(|&c| c as u8).collect();
    Error::from_c(status, &message)
}

/// Makes a call that writes a text, with a buffer that is long enough.
pub(crate) fn text_of(
    f: impl Fn(*mut c_char, usize, *mut usize, *mut sys::kvg_error) -> sys::kvg_status,
) -> Result<String> {
    let mut text = vec![0u8; 256];
    loop {
        let mut needed = 0;
        let result = call(|error| f(text.as_mut_ptr().cast(), text.len(), &mut needed, error));
        match result {
            Ok(()) => {
                text.truncate(needed.saturating_sub(1)); // the terminator
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            Err(error) if error.status() == Status::BufferTooSmall && needed > text.len() => {
                text.resize(needed, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes a call that writes a list: once for its length, which nothing can change in between, then for it.
pub(crate) fn list_of<T: Copy + Default>(
    f: impl Fn(*mut T, usize, *mut usize, *mut sys::kvg_error) -> sys::kvg_status,
) -> Result<Vec<T>> {
    let mut needed = 0;
    call(|error| f(null_mut(), 0, &mut needed, error))?;
    let mut list = defaults(needed)?;
    if needed > 0 {
        call(|error| f(list.as_mut_ptr(), list.len(), &mut needed, error))?;
    }
    list.truncate(needed);
    Ok(list)
}

/// A vector of that length, or an error where there is no memory for it.
pub(crate) fn defaults<T: Copy + Default>(length: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(length).map_err(|_| {
        let bytes = length as u128 * std::mem::size_of::<T>() as u128;
        Error::new(Status::NoMemory, format!("there is no memory for {bytes} bytes"))
    })?;
    list.resize(length, T::default());
    Ok(list)
}

/// A text for C; `name` is the parameter's.
pub(crate) fn c_text(text: &str, name: &str) -> Result<CString> {
    CString::new(text).map_err(|error| {
        Error::invalid(format!("{name} holds a NUL character at byte {}", error.nul_position()))
    })
}

/// A struct of the C interface, which begins with its size, with the defaults of its `_init` function.
///
/// A newer library knows more fields than this crate and sets them all, behind the end of what the crate
/// knows. So there is room for them, they are dropped, and the size is that of the crate's struct again,
/// which the library then takes as that of an older header. Zeroes are a valid value of each of these
/// structs: they hold numbers and pointers only.
#[inline]
pub(crate) fn init<T: Copy>(f: impl FnOnce(*mut T)) -> T {
    #[repr(C)]
    struct Room<T> {
        value: T,
        more: [u64; 64],
    }
    let mut room = MaybeUninit::<Room<T>>::zeroed();
    f(room.as_mut_ptr().cast());
    // SAFETY: see above; the first field is the size.
    unsafe {
        room.as_mut_ptr().cast::<u32>().write(std::mem::size_of::<T>() as u32);
        room.assume_init().value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(
        error: *mut sys::kvg_error,
        status: sys::kvg_status,
        message: &str,
    ) -> sys::kvg_status {
        let mut value = sys::kvg_error { code: status, reserved: 0, message: [0; 504] };
        for (to, from) in value.message.iter_mut().zip(message.bytes()) {
            *to = from as c_char;
        }
        // SAFETY: the pointer comes from `call`.
        unsafe { error.write(value) };
        status
    }

    #[test]
    fn structs_of_a_newer_library_are_cut() {
        const SIZE: usize = std::mem::size_of::<sys::kvg_shape>();
        let shape = init(|p: *mut sys::kvg_shape| unsafe {
            p.cast::<u8>().write_bytes(7, SIZE + 512); // fields that this crate does not know
            (*p).layers = 12;
        });
        assert_eq!((shape.struct_size as usize, shape.layers), (SIZE, 12));
    }

    #[test]
    fn results_of_calls() {
        assert_eq!(call(|_| sys::KVG_OK), Ok(()));
        let error = call(|e| write(e, sys::KVG_E_STATE, "käputt")).unwrap_err();
        assert_eq!((error.status(), error.message()), (Status::State, "käputt"));
    }

    #[test]
    fn long_texts_are_asked_for_again() {
        for length in [0usize, 1, 254, 255, 256, 1000] {
            let calls = std::cell::Cell::new(0);
            let text = text_of(|to, have, needed, error| {
                calls.set(calls.get() + 1);
                // SAFETY: `to` has `have` bytes.
                unsafe {
                    *needed = length + 1;
                    if have < length + 1 {
                        return write(error, sys::KVG_E_BUFFER_TOO_SMALL, "short");
                    }
                    to.write_bytes(b'x', length);
                    to.add(length).write(0);
                }
                sys::KVG_OK
            });
            assert_eq!(text.unwrap(), "x".repeat(length));
            assert_eq!(calls.get(), if length < 256 { 1 } else { 2 });
        }
        let error = text_of(|_, _, _, error| write(error, sys::KVG_E_BUFFER_TOO_SMALL, "never"));
        assert_eq!(error.unwrap_err().status(), Status::BufferTooSmall);
    }

    #[test]
    fn lists_have_the_length_that_is_asked_for() {
        for length in [0usize, 1, 5000] {
            let list = list_of(|to: *mut u64, have, needed, _| {
                // SAFETY: `to` has `have` elements.
                unsafe {
                    *needed = length;
                    (0..have).for_each(|i| to.add(i).write(i as u64));
                }
                sys::KVG_OK
            });
            assert!(list.unwrap().into_iter().eq(0..length as u64));
        }
        let error = list_of::<u8>(|_, _, _, error| write(error, sys::KVG_E_STATE, "no list"));
        assert_eq!(error.unwrap_err().message(), "no list");
        assert_eq!(defaults::<u64>(usize::MAX / 8).unwrap_err().status(), Status::NoMemory);
    }

    #[test]
    fn texts_with_a_nul_are_refused() {
        assert_eq!(c_text("gear-2", "recipe").unwrap().to_bytes(), b"gear-2");
        let error = c_text("ge\0ar", "recipe").unwrap_err();
        assert_eq!(error.message(), "recipe holds a NUL character at byte 2");
    }
}
