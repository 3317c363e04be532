//! Loops in the widest vectors that the processor has.
//!
//! A build for distribution has to run on the oldest processors of its kind, whose vectors
//! hold two doubles. A function inside [`wide!`] is compiled for vectors of four and of
//! eight as well, and which of them runs is asked at run time. Rust neither reorders
//! floating-point operations nor joins them, so all give the same bits. May depend on
//! nothing else in the crate.

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
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512 $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? {
                    any($($argument),*)
                }
                // SAFETY, of both: the processor has been asked.
                match $crate::wide::vectors() {
                    $crate::wide::Vectors::Avx512 => return unsafe { avx512($($argument),*) },
                    $crate::wide::Vectors::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::wide::Vectors::Any => {}
                }
            }
            any($($argument),*)
        }
    };
}

pub(crate) use wide;

/// What [`wide!`] is compiled for.
#[cfg(target_arch = "x86_64")]
pub(crate) enum Vectors {
    Avx512,
    Avx2,
    Any,
}

/// The widest that the processor has; it is asked once.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn vectors() -> Vectors {
    use std::arch::is_x86_feature_detected as has;
    if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
        Vectors::Avx512
    } else if has!("avx2") {
        Vectors::Avx2
    } else {
        Vectors::Any
    }
}
