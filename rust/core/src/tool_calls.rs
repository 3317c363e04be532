//! Tool calls written as JSON, and how alike two of them are.
//!
//! May depend on nothing else in the crate.

use serde_json::{Map, Number, Value};

/// A call of a tool: its name and its arguments by name.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Lower-cased, because names are compared that way.
    name: String,
    arguments: Map<String, Value>,
}

impl ToolCall {
    /// Reads a JSON list of calls, each an object with a `name` and with `arguments` or
    /// `parameters`: an object, or a string that holds one. Empty text is no call.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn read_list(text: &str) -> Result<Vec<Self>, String> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        match parse(text)? {
            Value::Array(calls) => calls.into_iter().map(Self::read).collect(),
            other => Err(format!("{} instead of a list", kind(&other))),
        }
    }

    fn read(call: Value) -> Result<Self, String> {
        let Value::Object(mut call) = call else {
            return Err(format!("{} instead of a call", kind(&call)));
        };
        let Some(Value::String(name)) = call.get("name") else {
            return Err("a call without a name".to_owned());
        };
        let name = name.to_lowercase();
        let arguments = call.remove("arguments").or_else(|| call.remove("parameters"));
        match arguments {
            Some(Value::Object(arguments)) => Ok(Self { name, arguments }),
            Some(Value::String(text)) => match parse(&text)? {
                Value::Object(arguments) => Ok(Self { name, arguments }),
                other => Err(format!("{} as the arguments of {name:?}", kind(&other))),
            },
            Some(other) => Err(format!("{} as the arguments of {name:?}", kind(&other))),
            None => Err(format!("no arguments or parameters of {name:?}")),
        }
    }

    /// `(1 + J + V) / (2 + |gold arguments|)`, 0 where the names differ but for case. `J` is
    /// the Jaccard index of the argument names (1 for none on either side), `V` the number
    /// of gold arguments that are there with an equal value.
    pub fn similarity(&self, gold: &Self) -> f64 {
        if self.name != gold.name {
            return 0.0;
        }
        let shared =
            gold.arguments.keys().filter(|name| self.arguments.contains_key(*name)).count();
        let all = self.arguments.len() + gold.arguments.len() - shared;
        let jaccard = if all == 0 { 1.0 } else { shared as f64 / all as f64 };
        let alike = |(name, value): &(&String, &Value)| {
            self.arguments.get(*name).is_some_and(|own| equal(own, value))
        };
        let matching = gold.arguments.iter().filter(alike).count();
        (1.0 + jaccard + matching as f64) / (2.0 + gold.arguments.len() as f64)
    }
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        let start: String = text.chars().take(40).collect();
        format!("{start:?} ({error})")
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Equality as Python sees it: `1`, `1.0` and `true` are equal, the order of an object's
/// keys does not matter, that of a list does.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => same_number(&a, &b),
            (None, None) => a == b,
            _ => false,
        },
    }
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Bool(truth) => Some(Number::from(u8::from(*truth))),
        Value::Number(number) => Some(number.clone()),
        _ => None,
    }
}

/// Exact: a 64-bit integer is not rounded to be compared with a float.
fn same_number(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a == b,
        (Some(whole), None) => b.as_f64().is_some_and(|x| is_whole(x, whole)),
        (None, Some(whole)) => a.as_f64().is_some_and(|x| is_whole(x, whole)),
        (None, None) => a.as_f64() == b.as_f64(),
    }
}

fn is_whole(x: f64, whole: i128) -> bool {
    x.fract() == 0.0 && x.abs() < 1e38 && x as i128 == whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alike(a: &str, b: &str) -> bool {
        equal(&parse(a).unwrap(), &parse(b).unwrap())
    }

    #[test]
    fn values_are_equal_as_in_python() {
        assert!(alike("1", "1.0") && alike("true", "1") && alike("0.0", "false"));
        assert!(alike(
            r#"{"a": [1, {"b": true}], "c": null}"#,
            r#"{"c": null, "a": [1.0, {"b": 1}]}"#
        ));
        assert!(!alike("[1, 2]", "[2, 1]") && !alike("1", "\"1\"") && !alike("null", "0"));
        assert!(!alike("9007199254740993", "9007199254740992.0"));
        assert!(alike("1e3", "1000") && !alike("1.5", "1") && !alike("[1]", "[1, 1]"));
    }

    #[test]
    fn both_names_and_both_forms_are_read() {
        let read = |text| ToolCall::read_list(text).unwrap();
        let want = read(r#"[{"name": "Find", "parameters": {"a": 1}}]"#);
        for text in [
            r#"[{"name": "find", "arguments": "{\"a\": 1}"}]"#,
            r#"[{"name": "FIND", "arguments": {"a": 1}}]"#,
            r#" [{"parameters": "{\"a\": 1}", "name": "find"}]"#,
        ] {
            assert_eq!(read(text), want);
        }
        assert_eq!(read(""), []);
        assert_eq!(read("[]"), []);
    }

    #[test]
    fn similarity_counts_names_and_values() {
        let one = |text| ToolCall::read_list(text).unwrap().remove(0);
        let gold = one(r#"[{"name": "f", "parameters": {"a": 1, "b": 2}}]"#);
        let got = one(r#"[{"name": "F", "arguments": {"a": true, "c": 2}}]"#);
        assert_eq!(got.similarity(&gold), (1.0 + 1.0 / 3.0 + 1.0) / 4.0);
        let bare = one(r#"[{"name": "f", "arguments": {}}]"#);
        assert_eq!(bare.similarity(&gold), 0.25);
        assert_eq!(bare.similarity(&bare), 1.0);
        assert_eq!(one(r#"[{"name": "g", "arguments": {}}]"#).similarity(&bare), 0.0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let message = |text| ToolCall::read_list(text).unwrap_err();
        assert!(message("[{").starts_with("\"[{\" (EOF"), "{}", message("[{"));
        assert_eq!(message("{}"), "an object instead of a list");
        assert_eq!(message("[1]"), "a number instead of a call");
        assert_eq!(message("[{}]"), "a call without a name");
        assert_eq!(message(r#"[{"name": "f"}]"#), "no arguments or parameters of \"f\"");
        assert_eq!(
            message(r#"[{"name": "f", "arguments": "[]"}]"#),
            "a list as the arguments of \"f\""
        );
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(message(&deep).contains("recursion limit"));
    }
}
