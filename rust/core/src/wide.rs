//! Loops in the widest vectors that the processor has.
//!
//! A build for distribution has to run on the oldest processors of its kind, whose vectors
//! hold two doubles. A function inside [`wide!`] is compiled for vectors of four as well,
//! and which of both runs is asked at run time. Rust neither reorders floating-point
//! operations nor joins them, so both give the same bits. May depend on nothing else in
//! the crate.

/// Defines a function whose loops run in wide vectors where there are any. Worth it for
/// loops over slices that the compiler turns into vector instructions; what they call
/// must be inlined, or stays narrow.
macro_rules! wide {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$real:ident: $bound:path>)? (
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $out:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn any $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2 $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? {
                    any($($argument),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has just been asked.
                    return unsafe { avx2($($argument),*) };
                }
            }
            any($($argument),*)
        }
    };
}

pub(crate) use wide;
