//! What a shell command is about, as a short list of tokens: the signatures that
//! `a3` compares, made from the command's syntax tree.
//!
//! Control words and operators stand as they are written; a command is its name
//! without the folder (`cmd:git`), its flags (`flag:-m`), and its salient words: the
//! first bare word after the name, which is the verb of tools such as `git` and `pip`
//! (`word:commit`), and the last part of each path (`path:main.py`). Quoted text,
//! numbers, variables and values of flags are left out: they differ between attempts
//! that mean the same. Which words are salient is our choice; the authors' parser is
//! not published with the reference cases. May depend on `error` alone.

use tree_sitter::{Node, Parser, TreeCursor};

use crate::error::{Error, Result};

/// Longest command that is parsed, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Keywords and operators that are part of a signature.
const CONTROL: [&str; 22] = [
    "if", "then", "elif", "else", "for", "while", "until", "case", "select", "function", "!", "&&",
    "||", "|", "|&", "&", ">", ">>", "<", "<<", "<<<", "&>",
];

/// Tokens of a command, in the order in which they are written.
///
/// A part that is not valid shell gives `error`, and parsing goes on behind it. Empty
/// text gives no token.
///
/// # Errors
///
/// [`Error::TooLarge`] above [`MAX_BYTES`].
pub fn signature(command: &str) -> Result<Vec<String>> {
    if command.len() > MAX_BYTES {
        let (got, limit) = (command.len() as u128, MAX_BYTES as u128);
        return Err(Error::TooLarge { what: "bytes of a shell command", got, limit });
    }
    let mut parser = Parser::new();
    let tree = match parser.set_language(&tree_sitter_bash::LANGUAGE.into()) {
        Ok(()) => parser.parse(command, None),
        Err(_) => None,
    };
    let mut tokens = Vec::new();
    if let Some(tree) = tree {
        walk(&mut tree.walk(), |node| visit(node, command, &mut tokens));
    }
    Ok(tokens)
}

/// Calls `visit` on every node, parents first; its answer says whether to go inside.
fn walk(cursor: &mut TreeCursor<'_>, mut visit: impl FnMut(Node<'_>) -> bool) {
    loop {
        if visit(cursor.node()) && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

fn visit(node: Node<'_>, source: &str, tokens: &mut Vec<String>) -> bool {
    let text = || source.get(node.byte_range()).unwrap_or_default();
    match node.kind() {
        "ERROR" => tokens.push("error".to_owned()),
        "command_name" => tokens.push(format!("cmd:{}", last_part(text()))),
        "word" => tokens.extend(word(node, text())),
        "string" | "raw_string" | "ansi_c_string" | "heredoc_body" | "comment" => return false,
        kind if CONTROL.contains(&kind) => tokens.push(kind.to_owned()),
        _ => {}
    }
    node.kind() != "command_name"
}

/// A word of a command: a flag, a path, or the bare word right after the name.
fn word(node: Node<'_>, text: &str) -> Option<String> {
    if text.starts_with('-') && text.len() > 1 {
        let flag = text.split('=').next().unwrap_or(text);
        return Some(format!("flag:{flag}"));
    }
    if text.contains('/') || is_file_name(text) {
        return Some(format!("path:{}", last_part(text)));
    }
    let follows_name = node.prev_sibling().is_some_and(|before| before.kind() == "command_name");
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    (follows_name && bare).then(|| format!("word:{text}"))
}

/// `name.ext`, with an extension that begins with a letter.
fn is_file_name(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty() && extension.starts_with(|c: char| c.is_ascii_alphabetic())
    })
}

fn last_part(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(command: &str) -> String {
        signature(command).unwrap().join(" ")
    }

    #[test]
    fn commands() {
        for (command, expected) in [
            ("", ""),
            ("ls -la /tmp/x/", "cmd:ls flag:-la path:x"),
            ("git commit -m 'a message'", "cmd:git word:commit flag:-m"),
            ("/usr/bin/python3 src/main.py --n=3 5", "cmd:python3 path:main.py flag:--n"),
            (
                "cd a && grep -n foo b.txt | head -3 > out.log",
                "cmd:cd word:a && cmd:grep flag:-n path:b.txt | cmd:head > path:out.log",
            ),
            ("for f in *.py; do echo \"$f\"; done", "for path:*.py cmd:echo"),
            ("if [[ $x =~ ^a ]]; then exit 1; fi", "if then cmd:exit"),
            ("X=1 make test", "cmd:make word:test"),
        ] {
            assert_eq!(tokens(command), expected, "{command}");
        }
    }

    #[test]
    fn broken_and_hostile_commands() {
        assert!(tokens("echo )( && ls").contains("error"));
        assert!(signature(&"(".repeat(200_000)).is_ok());
        assert_eq!(tokens("echo héllo ünïcode/ß"), "cmd:echo path:ß");
        assert!(matches!(signature(&"x".repeat(MAX_BYTES + 1)), Err(Error::TooLarge { .. })));
    }
}
