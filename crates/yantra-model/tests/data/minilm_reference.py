"""Writes minilm_reference.json: embeddings of 25 English and 25 Hindi sentences by sentence-transformers in f32.

Usage: python minilm_reference.py MODEL_DIRECTORY XQUAD_DIRECTORY > minilm_reference.json
(sentence-transformers from PyPI; XQuAD: https://github.com/google-deepmind/xquad, CC BY-SA 4.0)
"""
import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

model_directory, xquad = sys.argv[1], Path(sys.argv[2])
articles = json.loads((xquad / "xquad.en.json").read_text())["data"]
contexts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
# Lengths from a few words to a paragraph.
sentences = [context[: 20 + 35 * index] for index, context in enumerate(contexts[::9][:25])]
hindi = [
    "नमस्ते दुनिया।",
    "आज मौसम बहुत अच्छा है और हम बाहर घूमने जा रहे हैं।",
    "भारत की राजधानी नई दिल्ली है।",
    "कृत्रिम बुद्धिमत्ता भाषा को समझने और लिखने में मदद करती है।",
    "गंगा हिमालय से निकलकर बंगाल की खाड़ी में मिलती है।",
    "उसने पुस्तकालय से तीन किताबें उधार लीं, पर एक भी नहीं पढ़ी।",
    "क्या आप मुझे रेलवे स्टेशन का रास्ता बता सकते हैं?",
    "ज़रूरत पड़ने पर डॉक्टर से सलाह अवश्य लें।",
    "यन्त्र एक इंजन है जो भाषा के प्रतिरूप चलाता है।",
    "सूरज पूरब से उगता है और पश्चिम में डूबता है।",
    "बच्चों ने मैदान में क्रिकेट खेला और फिर चाय पी।",
    "संविधान सभा ने 26 नवंबर 1949 को संविधान अपनाया।",
    "दूध, चीनी और चावल से खीर बनती है।",
]
sentences += hindi + [" ".join(hindi[index : index + 2 + index % 4]) for index in range(12)]
model = SentenceTransformer(model_directory, device="cpu")
vectors = model.encode(sentences, normalize_embeddings=True, convert_to_numpy=True)
items = [
    {"text": text, "tokens": model.tokenizer(text)["input_ids"], "embedding": [round(float(x), 6) for x in vector]}
    for text, vector in zip(sentences, vectors)
]
json.dump({"max_seq_length": model.max_seq_length, "items": items}, sys.stdout, ensure_ascii=False)
