//! Recipes, and plans: the shape of a model with the recipe of every layer.
use std::ffi::CStr;
use std::ptr::{null_mut, NonNull};

use kvgear_sys as sys;

use crate::call::{c_text, call};
use crate::{Result, Shape};

/// A named way to compress, such as `gear-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Recipe {
    /// Its name, which [`Plan::new`] takes.
    pub name: &'static str,
    /// One sentence on it.
    pub summary: &'static str,
}

impl Recipe {
    /// All named recipes.
    pub fn all() -> Result<Vec<Self>> {
        crate::load()?;
        // SAFETY: the index is in range, and the texts are static.
        let text = |text: *const _| unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("?");
        Ok((0..unsafe { sys::kvg_recipe_count() })
            .map(|index| Self {
                name: text(unsafe { sys::kvg_recipe_name(index) }),
                summary: text(unsafe { sys::kvg_recipe_summary(index) }),
            })
            .collect())
    }
}

/// Model shape and the recipe of every layer; immutable, shared by caches and threads.
#[derive(Debug)]
pub struct Plan {
    raw: NonNull<sys::kvg_plan>,
}

// SAFETY: a plan is immutable and may be shared by all threads (rule 4 of kvgear.h).
unsafe impl Send for Plan {}
unsafe impl Sync for Plan {}

impl Plan {
    /// Creates a plan. `recipes` is a recipe text for all layers, optionally followed by overrides for
    /// layers or ranges of layers, each behind a semicolon: `gear-2;0-1:int8;7:fp16,window=128`.
    pub fn new(shape: Shape, recipes: &str) -> Result<Self> {
        crate::load()?;
        let (shape, recipes, mut out) = (shape.to_raw(), c_text(recipes, "recipes")?, null_mut());
        // SAFETY: all pointers are good for the call.
        call(|err| unsafe { sys::kvg_plan_create(&shape, recipes.as_ptr(), &mut out, err) })?;
        let raw = NonNull::new(out).expect("kvg_plan_create gives a plan or an error");
        Ok(Self { raw })
    }

    pub(crate) fn raw(&self) -> *mut sys::kvg_plan {
        self.raw.as_ptr()
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and ends here.
        unsafe { sys::kvg_plan_destroy(self.raw()) }
    }
}
