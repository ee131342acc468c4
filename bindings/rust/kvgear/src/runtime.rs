//! The runtime, and its log.
use std::cell::Cell;
use std::ffi::{c_char, c_void, CStr};
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::{null_mut, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use kvgear_sys as sys;

use crate::call::call;
use crate::{Error, LogLevel, Result, RuntimeOptions, Status};

/// Threads, memory and backends; shared by any number of caches and threads.
pub struct Runtime {
    raw: NonNull<sys::kvg_runtime>,
    sink: Mutex<Option<Arc<Sink>>>,
}

type Sink = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

// SAFETY: a runtime is immutable and may be shared by all threads (rule 4 of kvgear.h). The exception,
// its log sink, may be set at any time from any thread, and is kept behind a mutex here.
unsafe impl Send for Runtime {}
unsafe impl Sync for Runtime {}

impl Runtime {
    /// Creates a runtime.
    ///
    /// Fails with [`Status::Backend`] if the device is not to be had; the message says what is missing.
    pub fn new(options: &RuntimeOptions) -> Result<Self> {
        crate::load()?;
        let (options, mut out) = (options.to_raw(), null_mut());
        // SAFETY: both pointers are good for the call.
        call(|err| unsafe { sys::kvg_runtime_create(&options, &mut out, err) })?;
        let raw = NonNull::new(out).expect("kvg_runtime_create gives a runtime or an error");
        Ok(Self { raw, sink: Mutex::new(None) })
    }

    /// Sets what receives log lines, in place of what did before. It may be called from any thread that
    /// uses the runtime or that the runtime owns. When this returns, the former one is not running and
    /// is never called again. What the closure panics with is dropped, and the line with it.
    ///
    /// Refused with [`Status::State`] inside of such a closure.
    pub fn set_log(&self, sink: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Result<()> {
        self.replace_log(Some(Arc::new(Box::new(sink))))
    }

    /// Ends what [`Runtime::set_log`] began; by the same rules.
    pub fn remove_log(&self) -> Result<()> {
        self.replace_log(None)
    }

    fn replace_log(&self, new: Option<Arc<Sink>>) -> Result<()> {
        if IN_SINK.with(Cell::get) {
            return Err(Error::new(
                Status::State,
                "the log cannot be set by what receives its lines; set it from elsewhere",
            ));
        }
        let former = {
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let user = new.as_ref().map_or(null_mut(), |new| Arc::as_ptr(new) as *mut c_void);
            let function: sys::kvg_log_fn = new.as_ref().map(|_| forward as _);
            // SAFETY: the sink lives until it has been replaced, and when that call returns it is no
            // longer running.
            call(|err| unsafe { sys::kvg_runtime_set_log(self.raw(), function, user, err) })?;
            std::mem::replace(&mut *sink, new)
        };
        drop(former); // runs the user's code, so not behind the mutex
        Ok(())
    }

    /// The handle, for functions of `kvgear-sys`; it lives as long as this does.
    pub fn as_raw(&self) -> *mut sys::kvg_runtime {
        self.raw()
    }

    pub(crate) fn raw(&self) -> *mut sys::kvg_runtime {
        self.raw.as_ptr()
    }
}

/// A runtime for what cannot outlive it: borrowed, from `&runtime`, or a part of it, from an
/// `Arc<Runtime>`. What is made with the second can be kept anywhere.
#[derive(Clone, Debug)]
pub struct RuntimeRef<'r>(Hold<'r>);

#[derive(Clone, Debug)]
enum Hold<'r> {
    Borrowed(&'r Runtime),
    Shared(Arc<Runtime>),
}

impl RuntimeRef<'_> {
    pub(crate) fn get(&self) -> &Runtime {
        match &self.0 {
            Hold::Borrowed(runtime) => runtime,
            Hold::Shared(runtime) => runtime,
        }
    }
}

impl<'r> From<&'r Runtime> for RuntimeRef<'r> {
    fn from(runtime: &'r Runtime) -> Self {
        Self(Hold::Borrowed(runtime))
    }
}

impl<'r> From<&'r Arc<Runtime>> for RuntimeRef<'r> {
    fn from(runtime: &'r Arc<Runtime>) -> Self {
        Self(Hold::Borrowed(runtime))
    }
}

impl From<Arc<Runtime>> for RuntimeRef<'_> {
    fn from(runtime: Arc<Runtime>) -> Self {
        Self(Hold::Shared(runtime))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let has_sink = self.sink.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
        if has_sink && self.remove_log().is_err() {
            // Dropped by its own sink. The library may still call it, so it must not go.
            let sink = self.sink.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(sink);
        }
        // SAFETY: the handle is ours and ends here.
        unsafe { sys::kvg_runtime_destroy(self.raw()) }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("raw", &self.raw).finish_non_exhaustive()
    }
}

thread_local! {
    static IN_SINK: Cell<bool> = const { Cell::new(false) };
}

/// Calls the closure behind `user`. Nothing unwinds into C.
unsafe extern "C" fn forward(user: *mut c_void, level: sys::kvg_log_level, message: *const c_char) {
    if user.is_null() || message.is_null() {
        return;
    }
    // SAFETY: `user` is the sink given to kvg_runtime_set_log, and the message ends in a NUL.
    let (sink, message) = unsafe { (&*user.cast::<Sink>(), CStr::from_ptr(message)) };
    let level = LogLevel::from_raw(level).unwrap_or(LogLevel::Error);
    let outer = IN_SINK.with(|inside| inside.replace(true));
    let mut result = catch_unwind(AssertUnwindSafe(|| sink(level, &message.to_string_lossy())));
    IN_SINK.with(|inside| inside.set(outer));
    for _ in 0..2 {
        match result {
            Ok(()) => return,
            // The drop of what was thrown may throw as well.
            Err(payload) => result = catch_unwind(AssertUnwindSafe(|| drop(payload))),
        }
    }
    std::mem::forget(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(sink: Sink, level: sys::kvg_log_level, text: &CStr) {
        let sink = Arc::new(sink);
        // SAFETY: both pointers are good for the call.
        unsafe { forward(Arc::as_ptr(&sink) as *mut c_void, level, text.as_ptr()) }
    }

    type Lines = Arc<Mutex<Vec<(LogLevel, String)>>>;

    fn recorder() -> (Lines, Sink) {
        let lines = Lines::default();
        let to = Arc::clone(&lines);
        (lines, Box::new(move |level, text| to.lock().unwrap().push((level, text.into()))))
    }

    #[test]
    fn lines_reach_the_closure() {
        let (lines, sink) = recorder();
        let sink = Arc::new(sink);
        let user = Arc::as_ptr(&sink) as *mut c_void;
        let text = CStr::from_bytes_with_nul(b"half \xff\0").unwrap();
        // SAFETY: the pointers are good for the calls, or NULL.
        unsafe {
            forward(user, sys::KVG_LOG_WARN, text.as_ptr());
            forward(user, 99, text.as_ptr());
            forward(user, 0, std::ptr::null());
            forward(null_mut(), 0, text.as_ptr());
        }
        let text = "half \u{fffd}".to_string();
        let want = [(LogLevel::Warn, text.clone()), (LogLevel::Error, text)];
        assert_eq!(*lines.lock().unwrap(), want);
    }

    #[test]
    fn panics_stay_inside() {
        struct Worse;
        impl Drop for Worse {
            fn drop(&mut self) {
                panic!("while the payload is dropped");
            }
        }
        let text = CStr::from_bytes_with_nul(b"x\0").unwrap();
        std::panic::set_hook(Box::new(|_| {}));
        send(Box::new(|_, _| panic!("in the sink")), 0, text);
        send(Box::new(|_, _| std::panic::panic_any(Worse)), 0, text);
        let _ = std::panic::take_hook();
        assert!(!IN_SINK.with(Cell::get));
    }

    #[test]
    fn a_sink_knows_that_it_runs() {
        let seen = Arc::new(Mutex::new(false));
        let to = Arc::clone(&seen);
        let text = CStr::from_bytes_with_nul(b"x\0").unwrap();
        send(Box::new(move |_, _| *to.lock().unwrap() = IN_SINK.with(Cell::get)), 0, text);
        assert!(*seen.lock().unwrap());
        assert!(!IN_SINK.with(Cell::get));
    }
}
