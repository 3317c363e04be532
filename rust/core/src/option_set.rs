//! A set of options stated once: a struct with defaults, how it is read, how it is listed.
//!
//! What methods and rules of search share. May depend on `options` and `error`.

use crate::options::Value;

/// An option as listed to users.
#[derive(Clone, Debug)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// Its default.
    pub default: Value,
    /// What is accepted, in words.
    pub expected: String,
    /// What it does.
    pub doc: &'static str,
}

/// States options once: the struct `Options` with its defaults, read from loose settings and
/// listed. Part of [`method!`](crate::method) and [`rule!`](crate::rule), by whose name
/// errors call them.
#[macro_export]
macro_rules! option_set {
    (
        $(#[doc = $about:literal])*
        $of:literal { $( $(#[doc = $doc:literal])* $option:ident: $type:ty = $default:expr, )* }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct Options { $( $(#[doc = $doc])* pub $option: $type, )* }

        impl Default for Options {
            fn default() -> Self {
                Self { $( $option: <$type as $crate::options::OptionValue>::literal($default), )* }
            }
        }

        impl Options {
            #[allow(unused_mut, unused_variables, clippy::match_single_binding, clippy::never_loop)]
            fn read(settings: &$crate::options::Settings) -> $crate::error::Result<Self> {
                let mut options = Self::default();
                for (name, value) in settings {
                    match name.as_str() {
                        $( stringify!($option) => {
                            options.$option = <$type as $crate::options::OptionValue>::parse(value)
                                .ok_or_else(|| $crate::error::Error::BadOption {
                                    method: $of,
                                    option: stringify!($option),
                                    got: value.to_string(),
                                    expected: <$type as $crate::options::OptionValue>::expected(),
                                })?;
                        } )*
                        _ => return Err($crate::error::Error::UnknownOption {
                            method: $of,
                            option: name.clone(),
                            valid: vec![$( stringify!($option) ),*],
                        }),
                    }
                }
                Ok(options)
            }

            fn list() -> Vec<$crate::option_set::OptionSpec> {
                #[allow(unused_variables)]
                let defaults = Self::default();
                vec![$( $crate::option_set::OptionSpec {
                    name: stringify!($option),
                    default: $crate::options::OptionValue::show(&defaults.$option),
                    expected: <$type as $crate::options::OptionValue>::expected(),
                    doc: concat!($($doc, "\n"),*).trim_ascii(),
                } ),*]
            }
        }
    };
}
