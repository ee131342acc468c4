//! Recipes, and plans: the shape of a model with the recipe of every layer.
use std::ffi::{c_char, CStr};
use std::path::Path;
use std::ptr::{null, null_mut, NonNull};

use kvgear_sys as sys;

use crate::call::{c_text, call};
use crate::saved::path_text;
use crate::{Result, Shape, Side};

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
        // SAFETY: the functions only look up.
        let count = unsafe { sys::kvg_recipe_count() };
        let texts = |index| unsafe {
            [sys::kvg_recipe_name(index), sys::kvg_recipe_summary(index)]
                .map(|text| static_text(text))
        };
        Ok((0..count).map(texts).map(|[name, summary]| Self { name, summary }).collect())
    }
}

/// A rule that keeps only some tokens of a cache, or gives them different widths, such as `h2o`.
///
/// Its name is also that of a recipe, with the numbers that it was published with; and
/// `RECIPE,select=POLICY` adds it to another, as in `gear-4,select=h2o,budget=0.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Policy {
    /// Its name.
    pub name: &'static str,
    /// One sentence on it.
    pub summary: &'static str,
}

impl Policy {
    /// All policies.
    pub fn all() -> Result<Vec<Self>> {
        crate::load()?;
        // SAFETY: the functions only look up.
        let count = unsafe { sys::kvg_policy_count() };
        let texts = |index| unsafe {
            [sys::kvg_policy_name(index), sys::kvg_policy_summary(index)]
                .map(|text| static_text(text))
        };
        Ok((0..count).map(texts).map(|[name, summary]| Self { name, summary }).collect())
    }
}

/// # Safety
/// The text must be a static one of the library.
unsafe fn static_text(text: *const c_char) -> &'static str {
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("?")
}

/// What a side of a layer keeps in place of its rows: see [`Plan::latent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Latent {
    /// Numbers of the latent of a group of heads.
    pub rank: u32,
    /// KV heads of a group.
    pub group_heads: u32,
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

    /// Creates a plan from a plan file, which carries what was worked out offline for one model, such as
    /// the factors of latent caches. What is damaged, or of another model, is refused.
    ///
    /// `shape`: what the file's must be, if anything. `recipes`: as for [`Plan::new`]; empty takes those
    /// of the file. `fingerprint`: what the file's must be; empty takes any.
    pub fn load(
        path: impl AsRef<Path>,
        shape: Option<Shape>,
        recipes: &str,
        fingerprint: &[u8],
    ) -> Result<Self> {
        crate::load()?;
        let (path, recipes) = (path_text(path.as_ref())?, c_text(recipes, "recipes")?);
        let shape = shape.map(|shape| shape.to_raw());
        let shape = shape.as_ref().map_or(null(), |shape| shape as *const _);
        let mut out = null_mut();
        // SAFETY: all pointers are good for the call, and shape may be NULL.
        call(|err| unsafe {
            let bytes = fingerprint.as_ptr().cast();
            sys::kvg_plan_load(
                path.as_ptr(),
                shape,
                recipes.as_ptr(),
                bytes,
                fingerprint.len(),
                &mut out,
                err,
            )
        })?;
        let raw = NonNull::new(out).expect("kvg_plan_load gives a plan or an error");
        Ok(Self { raw })
    }

    /// Whether a side of a layer keeps latents, and of what size.
    pub fn latent(&self, layer: u32, side: Side) -> Result<Option<Latent>> {
        let (mut rank, mut group_heads) = (0, 0);
        // SAFETY: the handle is alive, and the numbers are ours.
        call(|err| unsafe {
            sys::kvg_plan_latent(self.raw(), layer, side.raw(), &mut rank, &mut group_heads, err)
        })?;
        Ok((rank > 0).then_some(Latent { rank, group_heads }))
    }

    /// The handle, for functions of `kvgear-sys`; it lives as long as this does.
    pub fn as_raw(&self) -> *const sys::kvg_plan {
        self.raw()
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
