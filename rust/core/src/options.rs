//! Options of methods: typed, with defaults and ranges, read from loose settings.
//!
//! A method states its options once, in [`method!`](crate::method); names,
//! defaults, ranges and documentation reach Python from there.
//! May depend on `error` alone.

use std::fmt;
use std::ops::Deref;

/// A setting as it comes from a caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Python's `None`.
    Nothing,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A string.
    Text(String),
    /// Several numbers.
    Floats(Vec<f64>),
    /// Several integers.
    Ints(Vec<i64>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "None"),
            Self::Bool(true) => write!(f, "True"),
            Self::Bool(false) => write!(f, "False"),
            Self::Int(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v:?}"),
            Self::Text(v) => write!(f, "{v:?}"),
            Self::Floats(v) => write!(f, "{v:?}"),
            Self::Ints(v) => write!(f, "{v:?}"),
        }
    }
}

/// Settings in the order given; a later one of the same name wins.
pub type Settings = Vec<(String, Value)>;

/// A type that an option can have.
pub trait OptionValue: Sized {
    /// How a default is written in a method's file.
    type Literal;
    /// From the default.
    fn literal(value: Self::Literal) -> Self;
    /// From a setting; `None` when the type or range is wrong.
    fn parse(value: &Value) -> Option<Self>;
    /// Back to a setting, for listings.
    fn show(&self) -> Value;
    /// What is accepted, in words.
    fn expected() -> String;
}

macro_rules! number_option {
    ($(#[doc = $doc:literal])* $name:ident, $words:literal, $test:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name(f64);

        impl Deref for $name {
            type Target = f64;
            fn deref(&self) -> &f64 {
                &self.0
            }
        }

        impl OptionValue for $name {
            type Literal = f64;
            fn literal(value: f64) -> Self {
                Self(value)
            }
            fn parse(value: &Value) -> Option<Self> {
                let number = f64::parse(value)?;
                let test: fn(f64) -> bool = $test;
                test(number).then_some(Self(number))
            }
            fn show(&self) -> Value {
                Value::Float(self.0)
            }
            fn expected() -> String {
                $words.to_owned()
            }
        }
    };
}

number_option!(
    /// A number from 0 to 1: a discount, a share, a similarity.
    Unit, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x)
);
number_option!(
    /// A number that is at least 0: an epsilon, a floor, a weight.
    NonNegative, "a number of at least 0", |x| x >= 0.0
);
number_option!(
    /// A number above 0: a temperature, a bound.
    Positive, "a number above 0", |x| x > 0.0
);

macro_rules! count_option {
    ($(#[doc = $doc:literal])* $name:ident, $words:literal, $range:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(usize);

        impl Deref for $name {
            type Target = usize;
            fn deref(&self) -> &usize {
                &self.0
            }
        }

        impl OptionValue for $name {
            type Literal = usize;
            fn literal(value: usize) -> Self {
                Self(value)
            }
            fn parse(value: &Value) -> Option<Self> {
                usize::parse(value).filter(|count| ($range).contains(count)).map(Self)
            }
            fn show(&self) -> Value {
                self.0.show()
            }
            fn expected() -> String {
                $words.to_owned()
            }
        }
    };
}

count_option!(
    /// An integer that is at least 1: a length, a number of rounds.
    Count, "an integer of at least 1", 1..
);
count_option!(
    /// How many a request can ask for: a width, a number of samples.
    Width, "an integer from 1 to 65535", 1..=65535
);

impl OptionValue for f64 {
    type Literal = Self;
    fn literal(value: Self) -> Self {
        value
    }
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Float(v) if v.is_finite() => Some(*v),
            Value::Int(v) => Some(*v as Self),
            _ => None,
        }
    }
    fn show(&self) -> Value {
        Value::Float(*self)
    }
    fn expected() -> String {
        "a finite number".to_owned()
    }
}

impl OptionValue for bool {
    type Literal = Self;
    fn literal(value: Self) -> Self {
        value
    }
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }
    fn show(&self) -> Value {
        Value::Bool(*self)
    }
    fn expected() -> String {
        "True or False".to_owned()
    }
}

impl OptionValue for usize {
    type Literal = Self;
    fn literal(value: Self) -> Self {
        value
    }
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Int(v) => Self::try_from(*v).ok(),
            _ => None,
        }
    }
    fn show(&self) -> Value {
        Value::Int(*self as i64)
    }
    fn expected() -> String {
        "an integer of at least 0".to_owned()
    }
}

impl OptionValue for Vec<f64> {
    type Literal = Self;
    fn literal(value: Self) -> Self {
        value
    }
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Floats(v) if v.iter().all(|x| x.is_finite()) => Some(v.clone()),
            Value::Ints(v) => Some(v.iter().map(|&x| x as f64).collect()),
            _ => None,
        }
    }
    fn show(&self) -> Value {
        Value::Floats(self.clone())
    }
    fn expected() -> String {
        "a list of finite numbers".to_owned()
    }
}

impl OptionValue for Vec<i64> {
    type Literal = Self;
    fn literal(value: Self) -> Self {
        value
    }
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Ints(v) => Some(v.clone()),
            Value::Floats(v) if v.is_empty() => Some(Self::new()),
            _ => None,
        }
    }
    fn show(&self) -> Value {
        Value::Ints(self.clone())
    }
    fn expected() -> String {
        "a list of integers".to_owned()
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    type Literal = Option<T::Literal>;
    fn literal(value: Self::Literal) -> Self {
        value.map(T::literal)
    }
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::Nothing => Some(None),
            other => T::parse(other).map(Some),
        }
    }
    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Nothing, T::show)
    }
    fn expected() -> String {
        format!("{}, or None", T::expected())
    }
}

/// An option with a fixed set of names.
#[macro_export]
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        $name:ident { $( $(#[doc = $variant_doc:literal])* $variant:ident = $text:literal ),+ $(,)? }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $variant_doc])* $variant ),+ }

        impl $crate::options::OptionValue for $name {
            type Literal = Self;
            fn literal(value: Self) -> Self { value }
            fn parse(value: &$crate::options::Value) -> Option<Self> {
                match value {
                    $( $crate::options::Value::Text(text) if text == $text => Some(Self::$variant), )+
                    _ => None,
                }
            }
            fn show(&self) -> $crate::options::Value {
                $crate::options::Value::Text(match self { $( Self::$variant => $text ),+ }.to_owned())
            }
            fn expected() -> String {
                format!("one of {}", [$( concat!("\"", $text, "\"") ),+].join(", "))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    choice! {
        /// Test.
        Colour {
            /// Red.
            Red = "red",
            /// Blue.
            Blue = "blue",
        }
    }

    #[test]
    fn values_are_parsed_by_type_and_range() {
        assert_eq!(Unit::parse(&Value::Float(0.5)).map(|u| *u), Some(0.5));
        assert_eq!(Unit::parse(&Value::Int(1)).map(|u| *u), Some(1.0));
        assert_eq!(Unit::parse(&Value::Float(1.5)), None);
        assert_eq!(NonNegative::parse(&Value::Float(f64::NAN)), None);
        assert_eq!(bool::parse(&Value::Int(1)), None);
        assert_eq!(usize::parse(&Value::Int(-1)), None);
        assert_eq!(Colour::parse(&Value::Text("blue".into())), Some(Colour::Blue));
        assert_eq!(Colour::expected(), "one of \"red\", \"blue\"");
        assert_eq!(Option::<Unit>::parse(&Value::Nothing), Some(None));
        assert_eq!(<Option<usize>>::expected(), "an integer of at least 0, or None");
    }
}
