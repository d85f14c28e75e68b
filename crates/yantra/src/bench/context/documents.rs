//! Contexts of many documents with a fact each, or many keys with values, and questions for them.

use anyhow::{Context as _, Result, bail};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Map, json};
use yantra_text::{ChatInput, ChatTemplate, EncodeOptions, Tokenizer};

/// What documents are filled with: sentences that say nothing of codes.
const FILLER: [&str; 8] = [
    "The harbour was busy in the morning and quiet by noon.",
    "Most of the goods came by rail, some by ship.",
    "Visitors praised the gardens and complained about the rain.",
    "A new bridge was planned, and the plan was changed twice.",
    "The library kept its doors open until eight in the evening.",
    "Prices rose a little in spring and fell again in autumn.",
    "The old mill was turned into a workshop for carpenters.",
    "On market days the square was full before sunrise.",
];

/// Where the question stands in the prompt while it is rendered.
const PLACE: &str = "@@question@@";

/// What a context is made of, and what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Task {
    Documents,
    Keys,
}

/// Makes contexts for a model.
pub(super) struct Corpus<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) template: Option<&'a ChatTemplate>,
    pub(super) task: Task,
    pub(super) seed: u64,
}

/// A prompt up to its question, and questions with answers.
pub(super) struct Context {
    pub(super) prompt: Vec<u32>,
    /// From the question to the beginning of the answer, one for each depth.
    pub(super) questions: Vec<Vec<u32>>,
    /// The right answer of each, all of them different.
    pub(super) answers: Vec<Vec<u32>>,
}

struct Document {
    /// What is asked for it.
    question: String,
    /// How the answer begins.
    beginning: String,
    answer: String,
    text: String,
}

impl Corpus<'_> {
    /// A context of at most so many tokens with its questions, whose documents stand at so many depths.
    pub(super) fn context(&self, length: usize, sample: u64, depths: usize) -> Result<Context> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(1009).wrapping_add(sample));
        let mut names = names();
        names.shuffle(&mut random);
        let mut documents: Vec<Document> = Vec::new();
        let mut used = 256;
        loop {
            let document = match self.task {
                Task::Keys => pair(&mut random),
                Task::Documents => {
                    let index = documents.len();
                    let name = names.get(index).with_context(|| {
                        format!("{index} documents are all there are, {used} tokens of the length of {length}")
                    })?;
                    fact(name, index, &mut random)
                }
            };
            used += self.encode(&document.text)?.len();
            if used > length {
                break;
            }
            documents.push(document);
        }
        if documents.len() < depths {
            bail!("{} documents fit in {length} tokens, fewer than the {depths} depths", documents.len());
        }
        let (before, after) = self.frame(&documents)?;
        let at = |depth: usize| &documents[depth * (documents.len() - 1) / (depths - 1)];
        let question = |document: &Document| self.encode(&(document.question.clone() + &after + &document.beginning));
        Ok(Context {
            prompt: self.encode(&before)?,
            questions: (0..depths).map(|depth| question(at(depth))).collect::<Result<_>>()?,
            answers: (0..depths).map(|depth| self.encode(&at(depth).answer)).collect::<Result<_>>()?,
        })
    }

    /// The prompt before the question, and what follows the question.
    fn frame(&self, documents: &[Document]) -> Result<(String, String)> {
        let texts: String = documents.iter().map(|document| document.text.as_str()).collect();
        let message = match self.task {
            Task::Documents => format!("Answer the question with the documents.\n\n{texts}\nQuestion: {PLACE}"),
            Task::Keys => format!("Answer the question with the JSON object.\n\n{{\n{texts}}}\n\nQuestion: {PLACE}"),
        };
        let rendered = match self.template {
            None => format!("{message}\nAnswer: "),
            Some(template) => {
                let messages = json!([{"role": "user", "content": message}]);
                let input =
                    ChatInput { messages: &messages, tools: None, add_generation_prompt: true, extra: &Map::new() };
                template.render(&input)?
            }
        };
        let (before, after) = rendered.split_once(PLACE).context("the chat template changes what users write")?;
        Ok((before.to_owned(), after.to_owned()))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true })?)
    }

    /// The first tokens of a text.
    pub(super) fn tokens(&self, text: &str, length: usize) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })?;
        if tokens.len() < length {
            bail!("the text has {} tokens, fewer than the length of {length}", tokens.len());
        }
        tokens.truncate(length);
        Ok(tokens)
    }
}

/// A document whose fact is the code of a place, with other sentences around it.
fn fact(name: &str, index: usize, random: &mut StdRng) -> Document {
    let code = random.random_range(10_000..100_000);
    let mut sentences: Vec<String> = FILLER.iter().map(|sentence| (*sentence).to_owned()).collect();
    sentences.shuffle(random);
    sentences.truncate(3);
    let fact = random.random_range(0..=sentences.len());
    sentences.insert(fact, format!("The access code of {name} is {code}."));
    Document {
        question: format!("What is the access code of {name}?"),
        beginning: format!("The access code of {name} is"),
        answer: format!(" {code}"),
        text: format!("Document {}. {}\n", index + 1, sentences.join(" ")),
    }
}

/// A line of an object, of hexadecimal digits as in the retrieval of Liu et al. 2023, section 3, though fewer.
fn pair(random: &mut StdRng) -> Document {
    let (key, value): (u64, u32) = (random.random(), random.random());
    Document {
        question: format!("What is the value of the key \"{key:016x}\"?"),
        beginning: format!("The value of the key \"{key:016x}\" is \""),
        answer: format!("{value:08x}"),
        text: format!("  \"{key:016x}\": \"{value:08x}\",\n"),
    }
}

/// Names of places that are not, each once.
fn names() -> Vec<String> {
    const STARTS: [&str; 24] = [
        "Al", "Bran", "Cor", "Dun", "Els", "Fal", "Gar", "Hol", "Ister", "Jun", "Kel", "Lor", "Mar", "Nor", "Ost",
        "Pel", "Quin", "Ros", "Sten", "Tor", "Ul", "Ver", "Wes", "Zan",
    ];
    const ENDS: [&str; 24] = [
        "aby", "bridge", "cliff", "dale", "eford", "field", "gate", "haven", "ingham", "junction", "keep", "land",
        "mouth", "ness", "over", "port", "quay", "ridge", "stead", "ton", "under", "ville", "wick", "yard",
    ];
    STARTS.iter().flat_map(|start| ENDS.iter().map(move |end| format!("{start}{end}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_of_many() {
        let mut names = names();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!((count, names.len()), (576, 576));
    }
}
