//! Bytes of a saved cache on their way through a writer or a reader of the user. Nothing unwinds into C.
use std::any::Any;
use std::ffi::c_void;
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use crate::{Error, Result, Status};

const BUFFER: usize = 1 << 16; // of a reader: what it fills must hold values, and C's memory may not

/// A writer or reader, and what went wrong with it.
pub(crate) struct Stream<S> {
    inner: S,
    buffer: Vec<u8>,
    failure: Option<Failure>,
}

enum Failure {
    Io(io::Error),
    Panic(Box<dyn Any + Send>),
}

impl<S> Stream<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, buffer: vec![], failure: None }
    }

    /// What C gets as `user`.
    pub fn user(&mut self) -> *mut c_void {
        (self as *mut Self).cast()
    }

    /// The number of bytes that `step` moved; below 0 if it failed, now or before.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> io::Result<usize>) -> i64 {
        if self.failure.is_some() {
            return -1;
        }
        self.failure = match catch_unwind(AssertUnwindSafe(|| step(self))) {
            Ok(Ok(count)) => return count.try_into().unwrap_or(-1),
            Ok(Err(error)) => Some(Failure::Io(error)),
            Err(payload) => Some(Failure::Panic(payload)),
        };
        -1
    }

    /// The result of the call, told in the words of what went wrong here. A panic goes on.
    pub fn end<T>(self, result: Result<T>) -> Result<T> {
        match (result, self.failure) {
            (_, Some(Failure::Panic(payload))) => resume_unwind(payload),
            (Err(error), Some(Failure::Io(cause))) if error.status() == Status::Io => {
                Err(Error::new(Status::Io, format!("{}: {cause}", error.message())))
            }
            (result, _) => result,
        }
    }
}

impl<W: Write> Stream<W> {
    /// The last step of a save: what the writer held back.
    pub fn flush(&mut self) -> Result<()> {
        match self.step(|stream| stream.inner.flush().map(|()| 0)) {
            0 => Ok(()),
            _ => Err(Error::new(Status::Io, "the end of the saved cache could not be written")),
        }
    }
}

/// # Safety
/// `user` is that of a stream of this writer, which nothing else uses now, and `data` has `bytes` bytes.
pub(crate) unsafe extern "C" fn write<W: Write>(
    user: *mut c_void,
    data: *const c_void,
    bytes: u64,
) -> i64 {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(isize::MAX as usize);
    // SAFETY: as the caller promises.
    let (stream, data) = unsafe {
        (&mut *user.cast::<Stream<W>>(), std::slice::from_raw_parts(data.cast::<u8>(), length))
    };
    stream.step(|stream| loop {
        match stream.inner.write(data) {
            Ok(0) => break Err(io::Error::new(ErrorKind::WriteZero, "the writer takes no more")),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result,
        }
    })
}

/// # Safety
/// As for [`write()`], of a reader; `data` is to be written.
pub(crate) unsafe extern "C" fn read<R: Read>(
    user: *mut c_void,
    data: *mut c_void,
    bytes: u64,
) -> i64 {
    // SAFETY: as the caller promises.
    let stream = unsafe { &mut *user.cast::<Stream<R>>() };
    stream.step(|stream| {
        if stream.buffer.is_empty() {
            stream.buffer.resize(BUFFER, 0);
        }
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(BUFFER);
        let buffer = &mut stream.buffer[..length];
        let count = loop {
            match stream.inner.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let given = &buffer[..count]; // a reader that counts wrongly gets no further than here
                                      // SAFETY: `data` has at least `length` bytes, and is not ours.
        unsafe { given.as_ptr().copy_to_nonoverlapping(data.cast(), given.len()) };
        Ok(count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_to<W: Write>(writer: W, text: &[u8]) -> (i64, Stream<W>) {
        let mut stream = Stream::new(writer);
        let (user, data, bytes) = (stream.user(), text.as_ptr().cast(), text.len() as u64);
        // SAFETY: the length is that of the text.
        let count = unsafe { write::<W>(user, data, bytes) };
        (count, stream)
    }

    fn read_from<R: Read>(reader: R, to: &mut [u8]) -> (i64, Stream<R>) {
        let mut stream = Stream::new(reader);
        let (user, data, bytes) = (stream.user(), to.as_mut_ptr().cast(), to.len() as u64);
        // SAFETY: the length is that of the slice.
        let count = unsafe { read::<R>(user, data, bytes) };
        (count, stream)
    }

    /// Interrupted once, then what the function says.
    struct Odd<F>(bool, F);

    impl<F: FnMut(usize) -> io::Result<usize>> Odd<F> {
        fn next(&mut self, room: usize) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return (self.1)(room);
            }
            Err(ErrorKind::Interrupted.into())
        }
    }

    impl<F: FnMut(usize) -> io::Result<usize>> Write for Odd<F> {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.next(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.next(0).map(drop)
        }
    }

    impl<F: FnMut(usize) -> io::Result<usize>> Read for Odd<F> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            to.fill(7);
            self.next(to.len())
        }
    }

    fn odd<F: FnMut(usize) -> io::Result<usize>>(f: F) -> Odd<F> {
        Odd(false, f)
    }

    fn io_error() -> Result<()> {
        Err(Error::new(Status::Io, "the function failed"))
    }

    #[test]
    fn bytes_go_through() {
        let mut to = vec![];
        assert_eq!(write_to(&mut to, b"some").0, 4);
        assert_eq!(to, b"some");
        let mut to = [0; 8];
        assert_eq!(read_from(&b"else"[..], &mut to).0, 4);
        assert_eq!(&to, b"else\0\0\0\0");
        assert_eq!(read_from(&b""[..], &mut to).0, 0);
        let mut long = vec![0; 3 * BUFFER];
        assert_eq!(read_from(io::repeat(3), &mut long).0, BUFFER as i64);
        assert!(long[..BUFFER].iter().all(|&x| x == 3) && long[BUFFER] == 0);
    }

    #[test]
    fn interruptions_are_tried_again_and_failures_told() {
        assert_eq!(write_to(odd(Ok), b"12345").0, 5);
        assert_eq!(read_from(odd(|_| Ok(2)), &mut [0; 4]).0, 2);
        let (count, mut stream) = write_to(odd(|_| Err(io::Error::other("disk full"))), b"1");
        assert_eq!(count, -1);
        assert_eq!(stream.step(|_| Ok(1)), -1); // it has failed for good
        assert!(stream.flush().is_err());
        let message = stream.end(io_error()).unwrap_err();
        assert_eq!(message.message(), "the function failed: disk full");
        let (count, stream) = write_to(odd(|_| Ok(0)), b"1");
        assert_eq!(count, -1);
        assert!(stream.end(io_error()).unwrap_err().message().contains("takes no more"));
        let (_, stream) = write_to(odd(Ok), b"1");
        assert_eq!(stream.end(io_error()), io_error()); // not the writer's fault
    }

    #[test]
    fn panics_go_around_c() {
        std::panic::set_hook(Box::new(|_| {}));
        let panicked =
            |stream: Stream<_>| catch_unwind(AssertUnwindSafe(|| stream.end(io_error()))).is_err();
        let (count, stream) = write_to(odd(|_| panic!("in a writer")), b"1");
        assert!(count == -1 && panicked(stream));
        let (count, stream) = read_from(odd(|room| Ok(room + 1)), &mut [0; 4]);
        let counted = catch_unwind(AssertUnwindSafe(|| stream.end(io_error()))).is_err();
        assert!(count == -1 && counted); // a reader that counts wrongly
        let _ = std::panic::take_hook();
    }
}
