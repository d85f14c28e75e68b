//! Grammars in GBNF: which texts they allow, and what is said of those that are none. The grammars have the shape of
//! llama.cpp's examples (JSON, arithmetic, lists, chess, C, Japanese), written anew.

use yantra_engine::{Constraint, EngineConfig};

use crate::fake::FakeModel;

fn check(grammar: &str, allowed: &[&str], refused: &[&str]) {
    let engine = FakeModel::new(16, 64).spawn(EngineConfig::default());
    let constraint = Constraint::of_grammar(grammar.to_owned());
    assert!(matches!(constraint, Constraint::Gbnf(_)), "{grammar}");
    let compiled = engine.compile(&constraint).unwrap_or_else(|error| panic!("{error}\n{grammar}"));
    for text in allowed {
        assert!(compiled.accepts(text), "{text:?} is none of\n{grammar}");
    }
    for text in refused {
        assert!(!compiled.accepts(text), "{text:?} is one of\n{grammar}");
    }
}

#[test]
fn json() {
    let grammar = r#"
# JSON, with little white space.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"#;
    let allowed = [
        "{}",
        "{\"a\": 1}",
        "{\"a\":[true,false,null, -1.5e3],\n\t\"b\": {\"c\": \"\\u00e9 \\\"é🦊\"}}",
        "{ \"a\": [[], [{}]] }\n",
    ];
    let refused = [
        "[]",
        "{\"a\": 01}",
        "{\"a\": 1,}",
        "{\"a\"  : 1}",
        "{\"a\": \"\n\"}",
        "{\"a\": \"\\x\"}",
        "{\"a\": tru}",
        "{",
    ];
    check(grammar, &allowed, &refused);
}

/// White space may end a number or a line: what is longest is not always right.
#[test]
fn arithmetic() {
    let grammar = r#"root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;
    check(
        grammar,
        &["1=1\n", "a +(b_1 *2)=x\n", "1 \n+2 = 3\n\n4=4\n"],
        &["1=1", "1+=1\n", "(1=1\n", "A=1\n", "1=1 2\n"],
    );
    check(
        "root ::= pair\npair ::= word \"x\" pair | \"!\"\nword ::= [a-z]+",
        &["ax!", "axxbx!", "!"],
        &["x!", "a!", "ax"],
    );
    check("root ::= e\ne ::= e \"+\" e | d\nd ::= \"a\" | \"ab\"", &["a", "ab+a+ab"], &["b", "a+", "aab"]);
}

#[test]
fn lists_chess_and_japanese() {
    check(
        "root ::= item+\n\n# What is listed.\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\"\n",
        &["- a\n- é b\n"],
        &["", "- \n", "- a", "* a\n"],
    );
    let chess = r#"root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?"#;
    check(chess, &["1. e4 e5\n2. Nf3 Nc6\n", "1. exd5 Qxd5\n12. O-O-O O-O\n"], &["1. e4 e5\n", "1. e9 e5\n2. a1 a2\n"]);
    let japanese = r"root ::= jp-char+ ([ \t\n] jp-char+)*
jp-char ::= hiragana | katakana | punctuation | cjk
hiragana ::= [ぁ-ゟ]
katakana ::= [ァ-ヿ]
punctuation ::= [、-〾]
cjk ::= [一-鿿]";
    check(japanese, &["すし 寿司", "カタカナ。"], &["sushi", "すし ", ""]);
}

#[test]
fn a_piece_of_c() {
    let grammar = r##"root ::= (declaration)*
declaration ::= dataType identifier "(" parameter? ")" "{" statement* "}"
dataType  ::= "int" ws | "float" ws | "char" ws
identifier ::= [a-zA-Z_] [a-zA-Z_0-9]*
parameter ::= dataType identifier
statement ::=
    ( dataType identifier ws "=" ws expression ";" ) |
    ( identifier ws "=" ws expression ";" ) |
    ( "return" ws expression ";" ) |
    ( "while" "(" condition ")" "{" statement* "}" ) |
    ( singleLineComment )
condition ::= expression relationOperator expression
relationOperator ::= ("<=" | "<" | "==" | "!=" | ">=" | ">")
expression ::= term (("+" | "-") term)*
term ::= factor(("*" | "/") factor)*
factor ::= identifier | number | "(" expression ")"
number ::= [0-9]+
singleLineComment ::= "//" [^\n]* "\n"
ws ::= ([ \t\n]+)
"##;
    let allowed = ["", "int f(int x){while(x<=10){x = x*(2+x);}// so\nreturn x;}", "int f(){return 1;}char g(){}"];
    check(grammar, &allowed, &["int f(){return 1}", "f(){}", "int f(){x=1;}", "int f(){while(x){}}"]);
}

#[test]
fn every_form_of_gbnf() {
    check(
        "root ::= a{2} b{1,} \"x\"{0,2} .\na ::= \"\\x41\"\nb ::= \"\\u00e9\"",
        &["AAé!", "AAééxx\n", "AAéx"],
        &["AAé", "Aé!", "AAéxxx!"],
    );
    check("root ::= [\\]\\[\\\\^-]* (\"a\" |\n \"b\")?", &["[]\\^-b", "", "a"], &["c", "ab"]);
    check("root ::= \"\" | \"(\" root \")\"", &["", "(())"], &["(", "())"]);
    check("root ::= \"/*\" \"\\\"\" \"\\t\"", &["/*\"\t"], &["/*"]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let engine = FakeModel::new(16, 64).spawn(EngineConfig::default());
    for (grammar, expected) in [
        ("root ::= \"a\nb ::= \"c\"", "line 1, column 10 of the grammar: a text that does not end"),
        ("root ::= a\n", "line 1, column 10 of the grammar: there is no rule 'a'"),
        ("a ::= \"x\"", "no rule 'root'"),
        ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1 of the grammar: a second rule 'root'"),
        ("root ::= (\"a\" | \"b\"", "line 1, column 20 of the grammar: ')' expected"),
        ("root ::= \"a\")", "line 1, column 13 of the grammar: the end of the rule expected"),
        ("root = \"a\"", "line 1, column 6 of the grammar: '::=' expected"),
        ("root ::= * \"a\"", "line 1, column 10 of the grammar: '*' with nothing before it"),
        ("root ::= [z-a]", "line 1, column 14 of the grammar: a range from 'z' to 'a'"),
        ("root ::= \"\\q\"", "line 1, column 11 of the grammar: an unknown escape"),
        ("root ::= \"a\"{3,1}", "at least 3 and at most 1"),
        ("root ::= \"a\"{99999}", "a number of at most 10000 expected"),
        ("root ::= <think>", "line 1, column 10 of the grammar: tokens can not be named"),
    ] {
        let error = engine.compile(&Constraint::Gbnf(grammar.to_owned())).unwrap_err().to_string();
        assert!(error.contains(expected), "{grammar:?}: {error}");
    }
    // A grammar nested too deep is refused, not followed down.
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    assert!(engine.compile(&Constraint::Gbnf(deep)).unwrap_err().to_string().contains("nested deeper than 100"));
}
