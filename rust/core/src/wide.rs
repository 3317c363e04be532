//! Loops in the widest vectors that the processor has.
//!
//! A build for distribution has to run on the oldest processors of its kind, whose vectors
//! hold two doubles. A function inside [`wide!`] is compiled for vectors of four as well,
//! one inside [`widest!`] for those of eight too, and which of them runs is asked at run
//! time. Rust neither reorders floating-point operations nor joins them, so all give the
//! same bits. May depend on nothing else in the crate.

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

/// As [`wide!`], and in vectors of eight where there are any. Worth it for blocks of a
/// thousand numbers; short loops, and those whose numbers lie apart in memory, take longer.
macro_rules! widest {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$real:ident: $bound:path>)? (
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $out:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn every $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512 $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? {
                    every($($argument),*)
                }
                if $crate::wide::has_avx512() {
                    // SAFETY: the processor has just been asked.
                    return unsafe { avx512($($argument),*) };
                }
            }
            $crate::wide::wide! {
                fn narrower $(<$real: $bound>)? ($($argument: $type),*) $(-> $out)? {
                    every($($argument),*)
                }
            }
            narrower($($argument),*)
        }
    };
}

pub(crate) use {wide, widest};

/// Whether there are vectors of eight doubles with the instructions of all processors but
/// the first that had them.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")
}
