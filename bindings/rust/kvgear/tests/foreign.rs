//! Tensors in memory that is not Rust's; here it is, so that what comes of them can be compared.
use std::ptr::{null_mut, NonNull};

use kvgear::{AttendOptions, Cache, Dtype, Foreign, Status};

mod support;
use support::{f16, picture, plan, queries, refused, runtime, tokens, SHAPE};

fn foreign<T>(data: &mut [T], dtype: Dtype, strides: [i64; 3]) -> Foreign {
    Foreign::new(data.as_mut_ptr().cast(), std::mem::size_of_val(data), dtype, strides)
}

#[test]
fn memory_that_is_not_rusts_is_used_where_it_lies() {
    let (runtime, plan, options) = (runtime(), plan("gear-4"), AttendOptions::new());
    let (mut k, mut v) = (f16(&tokens(1, 0, 80)), f16(&tokens(2, 0, 80)));
    let (mut there, mut here) =
        (Cache::new(&runtime, &plan).unwrap(), Cache::new(&runtime, &plan).unwrap());
    here.append(0, &k, &v).unwrap();
    let at_k = foreign(&mut k, Dtype::F16, [0; 3]);
    let at_v = foreign(&mut v, Dtype::F16, [128, 64, 1]);
    // SAFETY: the vectors hold these tensors, and the CPU is done when the call returns.
    unsafe { there.append_foreign(0, 80, at_k, at_v, null_mut()) }.unwrap();
    assert_eq!(picture(&there), picture(&here));

    let (mut q, width) = (queries(3, 2), i64::from(SHAPE.q_heads * SHAPE.head_dim));
    let mut expected = vec![0.0f32; q.len()];
    here.attend(0, &q, &mut expected).unwrap();
    let (mut out, mut both) = (vec![0.0f32; q.len()], vec![0.0f32; q.len()]);
    let at_q = foreign(&mut q, Dtype::F32, [width, 64, 1]);
    let at_out = foreign(&mut out, Dtype::F32, [0; 3]);
    let at_both = foreign(&mut both, Dtype::F32, [0; 3]);
    let batch = [&there, &here];
    // SAFETY: as above.
    unsafe {
        there.attend_foreign(0, 2, at_q, at_out, &options, null_mut()).unwrap();
        Cache::attend_batch_foreign(&batch, 0, 1, at_q, at_both, &options, null_mut()).unwrap();
    }
    assert_eq!(out, expected);
    let mut first = vec![0.0f32; width as usize];
    here.attend(0, &q[..first.len()], &mut first).unwrap();
    assert_eq!(both[..first.len()], first);

    // On the CPU there is no stream; and what does not fit together does not reach it.
    let stream = NonNull::dangling().as_ptr();
    let rows = foreign(&mut q, Dtype::F32, [256, 64, 2]);
    let short = Foreign::new(k.as_mut_ptr().cast(), 2, Dtype::F16, [0; 3]);
    // SAFETY: all of it is refused.
    unsafe {
        let attended = there.attend_foreign(0, 2, at_q, at_out, &options, stream);
        refused(attended, Status::Invalid, "stream is set");
        let attended = Cache::attend_batch_foreign(&[&there], 0, 2, at_q, at_out, &options, stream);
        refused(attended, Status::Invalid, "stream is set");
        let attended = there.attend_foreign(0, 2, rows, at_out, &options, null_mut());
        refused(attended, Status::Invalid, "last dimension of q");
        let attended = there.attend_foreign(0, 2, at_q, short, &options, null_mut());
        refused(attended, Status::Invalid, "out_bytes");
        let appended = there.append_foreign(0, 80, at_k, at_v, stream);
        refused(appended, Status::Invalid, "stream is set");
        let appended = there.append_foreign(0, 80, at_k, at_q, null_mut());
        refused(appended, Status::Invalid, "k is F16 but v is F32");
        let appended = there.append_foreign(0, 80, short, at_v, null_mut());
        refused(appended, Status::Invalid, "k_bytes");
    }
    assert_eq!(picture(&there), picture(&here));
}
