// Golden files of saved caches: every version of the library gives the same answer to each of them.
//
//   golden FOLDER           loads each file that FOLDER/expected.txt names, and compares status, words and numbers
//   golden --write FOLDER   makes the files and expected.txt; for a new format version, in a new folder
//
// A line of expected.txt is "FILE ok", followed by lines "> LAYER SIDE TOKENS CRC" with the CRC32C of the decoded
// numbers as fp32, or "FILE STATUS WORDS". In place of a side, of a layer that selects: p, its positions as u32, and s, scores.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/crc32c.h"
#include "core/codec/basis.h"
#include "core/format/layout.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 40};
constexpr char kFingerprint[] = "golden";
constexpr char kFirst[] =
    "gear-2,outliers=0.1,rank=3,decode_rank=2,window=32;1:kivi-2,v.window=32";
// Of the files that have a state beside their tokens; the bad ones of them are copies of one.
constexpr char kState[] = "tc-3,k.map=online,v.rate=2.5;1:gear-4,select=h2o,budget=0.6,sinks=2,window=32";

const char* StatusName(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return "ok";
    case absl::StatusCode::kInvalidArgument:
      return "KVG_E_INVALID";
    case absl::StatusCode::kUnimplemented:
      return "KVG_E_UNSUPPORTED";
    case absl::StatusCode::kDataLoss:
      return "KVG_E_CORRUPT";
    default:
      return "another";
  }
}

Bytes ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

void WriteFile(const std::string& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

// As a host would that knows the model: the plan is made of what the file says, where it can be read;
// else it is that of the first file, of which the bad ones are copies.
absl::StatusOr<std::unique_ptr<Cache>> Load(const std::string& name, const Bytes& bytes) {
  std::string recipes = name.find("state") == std::string::npos ? kFirst : kState;
  BufferSource tables(bytes.data(), bytes.size());
  const absl::StatusOr<SavedCache> saved = InspectSaved(tables, true, false);
  if (saved.ok()) {
    recipes = saved->recipes[0];
    for (uint32_t i = 0; i < saved->layers; ++i) {
      absl::StrAppend(&recipes, ";", saved->first_layer + i, ":", saved->recipes[i]);
    }
  }
  const auto cache = MakeCache(kShape, recipes);
  BufferSource source(bytes.data(), bytes.size());
  return LoadCache(cache->shared_runtime(), cache->shared_plan(),
                   {.fingerprint = kFingerprint, .exact = true}, source);
}

// The numbers as the scalar reference decodes them.
std::vector<std::string> Digests(const Cache& cache) {
  std::vector<std::string> lines;
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    const uint64_t tokens = cache.layer(layer).held();
    if (tokens == 0) continue;
    if (const SelectedLayer* const selected = cache.layer(layer).selected(); selected != nullptr) {
      const SelectedLayer::Numbers numbers = selected->numbers();
      const uint64_t scored = numbers.scores ? numbers.held - numbers.scored : 0;
      uint32_t positions = 0, scores = 0;
      for (uint32_t list = 0; list < numbers.lists; ++list) {
        positions = ExtendCrc32c(positions, selected->positions(list), tokens * sizeof(uint32_t));
        if (scored > 0) scores = ExtendCrc32c(scores, selected->scores(list), scored * sizeof(float));
      }
      lines.push_back(absl::StrFormat("> %d p %d %08x", layer, tokens, positions));
      if (scored > 0) lines.push_back(absl::StrFormat("> %d s %d %08x", layer, scored, scores));
    }
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      const PieceList pieces = cache.layer(layer).Pieces(side, cache.runtime().memory());
      std::vector<float> values(tokens * kShape.kv_dim());
      ops::ReadArgs args{};
      args.side = pieces.sequence();
      args.kv_heads = kShape.kv_heads;
      args.head_dim = kShape.head_dim;
      args.tokens = tokens;
      args.dtype = ops::kF32;
      args.out = values.data();
      ops::ReferenceTable().read(&args);
      lines.push_back(absl::StrFormat("> %d %s %d %08x", layer, side == ops::kSideK ? "k" : "v",
                                      tokens,
                                      Crc32c(values.data(), values.size() * sizeof(float))));
    }
  }
  return lines;
}

// --------------------------------------------------------------------------------------- writing

void Reseal(Bytes& bytes, size_t at, size_t size) {
  const uint32_t crc = Crc32c(&bytes[at], size - 4);
  std::memcpy(&bytes[at + size - 4], &crc, sizeof(crc));
}

template <typename T>
void SetHeader(Bytes& bytes, size_t at, T value) {
  std::memcpy(&bytes[at], &value, sizeof(value));
  Reseal(bytes, 0, format::kHeaderBytes);
}

// In the first section of a kind, with sums that fit. `at` >= 64 is in its payload.
template <typename T>
void SetSection(Bytes& bytes, uint32_t kind, size_t at, T value) {
  size_t section = format::kHeaderBytes;
  for (;;) {
    uint32_t found;
    uint64_t length;
    std::memcpy(&found, &bytes.at(section), sizeof(found));
    std::memcpy(&length, &bytes[section + 24], sizeof(length));
    if (found != kind) {
      section += format::kSectionBytes + format::Padded(length);
      continue;
    }
    std::memcpy(&bytes[section + at], &value, sizeof(value));
    const uint32_t crc = Crc32c(&bytes[section + format::kSectionBytes], length);
    if (at >= format::kSectionBytes) std::memcpy(&bytes[section + 20], &crc, sizeof(crc));
    Reseal(bytes, section, format::kSectionBytes);
    return;
  }
}

// Those with bases and selections.
void WriteState(const std::function<void(const std::string&, const Bytes&, const std::string&)>& add) {
  const auto attend = [](Cache& cache, uint32_t layer, uint64_t seed, uint32_t queries) {
    const std::vector<float> q = ToF32(RealisticTensor(seed, queries, 4, 40));
    std::vector<float> out(q.size());
    AttendOptions options;
    options.q_dtype = options.out_dtype = ops::kF32;
    options.queries = queries;
    Must(cache.AttendObserve(layer, q.data(), q.size() * 4, out.data(), out.size() * 4, options));
  };
  const auto grow = [&](const std::string& recipes, uint32_t queries) {
    auto cache = MakeCache(kShape, recipes);
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      const Tensor k = RealisticTensor(layer + 1, 230, 2, 40), v = RealisticTensor(layer + 9, 230, 2, 40);
      Append(*cache, layer, k.Tokens(0, 200), v.Tokens(0, 200));
      attend(*cache, layer, 20 + layer, queries);
      for (size_t t = 200; t < 230; ++t) {
        Append(*cache, layer, k.Tokens(t, 1), v.Tokens(t, 1));
        attend(*cache, layer, t, 1);
      }
    }
    return cache;
  };
  const SaveOptions all{.fingerprint = kFingerprint};
  const auto cache = grow(kState, 60);
  add("state-basis-h2o.kvg", Saved(*cache, all), "");
  add("state-waits-tova.kvg", Saved(*grow("tc-2,k.map=online,window=192;1:tova,budget=60", 2), all), "");
  add("state-zipcache-snapkv.kvg",
      Saved(*grow("zipcache;1:int4,window=32,select=snapkv,budget=120,recent=20", 40), all), "");
  const Bytes basis = Saved(*cache, {.layers = 1, .tokens = 128, .fingerprint = kFingerprint});
  const Bytes selection = Saved(*cache, {.first_layer = 1, .fingerprint = kFingerprint});
  const auto bad = [&](const std::string& name, const std::string& words, Bytes bytes,
                       const std::function<void(Bytes&)>& harm) {
    harm(bytes);
    add("bad-state-" + name + ".kvg", bytes, words);
  };
  bad("no-feature", "contradicts itself", basis, [](Bytes& b) { SetHeader(b, 16, uint64_t{0}); });
  bad("basis-nan", "NaN", basis,
      [](Bytes& b) { SetSection(b, format::kBasis, 64, uint16_t{0x7E00}); });
  bad("basis-width", "width that does not exist", basis, [](Bytes& b) {
    SetSection(b, format::kBasis, 64 + Basis::WidthsAt(kShape, ops::kSideK), uint8_t{5});
  });
  bad("no-basis", "contradicts itself", basis,
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 40, uint32_t{0}); });
  bad("no-selection-feature", "contradicts itself", selection,
      [](Bytes& b) { SetHeader(b, 16, uint64_t{0}); });
  bad("held", "contradicts itself", selection,
      [](Bytes& b) { SetSection(b, format::kSelection, 64 + 8, uint64_t{1} << 40); });
  bad("position-beyond", "positions", selection,
      [](Bytes& b) { SetSection(b, format::kSelection, 64 + 128, uint32_t{5000}); });
  bad("position-twice", "positions", selection, [](Bytes& b) {
    SetSection(b, format::kSelection, 64 + 128, uint64_t{7} << 32 | 7);
  });
  const SelectedLayer::Numbers numbers = cache->layer(1).selected()->numbers();
  bad("score", "score is negative", selection, [&](Bytes& b) {
    SetSection(b, format::kSelection, 64 + 128 + 4 * numbers.lists * numbers.held, -1.0f);
  });
}

void Write(const std::string& folder) {
  std::ofstream expected(folder + "/expected.txt");
  const auto add = [&](const std::string& name, const Bytes& bytes, const std::string& words) {
    WriteFile(folder + "/" + name, bytes);
    const auto cache = Load(name, bytes);
    expected << name << " " << StatusName(cache.status()) << (words.empty() ? "" : " " + words)
             << "\n";
    if (!cache.ok()) return;
    for (const std::string& line : Digests(**cache)) expected << line << "\n";
  };
  const auto grow = [](const std::string& recipes) {
    auto cache = MakeCache(kShape, recipes);
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      const Tensor k = RealisticTensor(layer + 1, 170, 2, 40), v = RealisticTensor(layer + 9, 170, 2, 40);
      Append(*cache, layer, k.Tokens(0, 150), v.Tokens(0, 150));
      Append(*cache, layer, k.Tokens(150, 20), v.Tokens(150, 20));
    }
    return cache;
  };
  const SaveOptions all{.fingerprint = kFingerprint};
  const std::pair<const char*, const char*> good[] = {
      {"gear2-kivi2.kvg", kFirst},
      {"kcvt4-fp16.kvg", "kcvt-4;1:fp16,window=32"},
      {"rotated-6bit.kvg", "int4-rot,bits=3;1:int8,bits=6,k.axis=channel"},
      {"gear4-1bit.kvg", "gear-4,outliers=0.05,k.decode_rank=3;1:gear-2,bits=1,v.decode_rank=2"},
      {"empty.kvg", "gear-2"}};
  for (const auto& [name, recipes] : good) {
    const auto cache = grow(recipes);
    if (std::string(name) == "empty.kvg") Must(cache->Clear());
    add(name, Saved(*cache, all), "");
  }
  const auto cache = grow(good[0].second);
  add("one-layer.kvg",
      Saved(*cache, {.first_layer = 1, .layers = 1, .fingerprint = kFingerprint}), "");
  const Bytes whole = Saved(*cache, all);
  const auto bad = [&](const std::string& name, const std::string& words,
                       const std::function<void(Bytes&)>& harm) {
    Bytes bytes = whole;
    harm(bytes);
    add("bad-" + name + ".kvg", bytes, words);
  };
  bad("cut-in-header", "cut off", [](Bytes& b) { b.resize(100); });
  bad("cut-in-payload", "cut off", [](Bytes& b) { b.resize(b.size() / 2); });
  bad("cut-at-end", "cut off", [](Bytes& b) { b.pop_back(); });
  bad("longer", "behind the end", [](Bytes& b) { b.resize(b.size() + 64); });
  bad("flip-in-header", "damaged", [](Bytes& b) { b[25] ^= std::byte{2}; });
  bad("flip-in-payload", "damaged", [](Bytes& b) { b[b.size() / 2] ^= std::byte{8}; });
  bad("foreign", "not a saved cache", [](Bytes& b) { b[1] = std::byte{'X'}; });
  bad("byte-order", "byte order", [](Bytes& b) { SetHeader(b, 8, uint32_t{0x04030201}); });
  bad("version", "version 2", [](Bytes& b) { SetHeader(b, 12, uint32_t{2}); });
  bad("features", "features", [](Bytes& b) { SetHeader(b, 16, uint64_t{1} << 40); });
  bad("huge", "cut off", [](Bytes& b) { SetHeader(b, 24, uint64_t{1} << 62); });
  bad("section-version", "does not know",
      [](Bytes& b) { SetSection(b, format::kData, 4, uint32_t{9}); });
  bad("section-length", "reaches beyond",
      [](Bytes& b) { SetSection(b, format::kSide, 24, ~uint64_t{63}); });
  bad("model", "another model", [](Bytes& b) { SetSection(b, format::kModel, 64, uint32_t{3}); });
  bad("segment-form", "does not know",
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 64 + 36, uint32_t{7}); });
  bad("segment-room", "damaged",
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 64 + 64, uint64_t{1} << 40); });
  bad("segment-rank", "damaged",
      [](Bytes& b) { SetSection(b, format::kSide, 64 + 64 + 16, uint32_t{1000}); });
  const ops::Piece* piece = nullptr;
  const std::byte* payload = nullptr;
  cache->layer(0).side(ops::kSideK).segments().ForEach([&](const Segment& s, bool, bool) {
    if (s.piece().first_token == 0) piece = &s.piece(), payload = s.payload();
  });
  const auto in_payload = [&](const void* field) {
    return static_cast<size_t>(64 + (static_cast<const std::byte*>(field) - payload));
  };
  bad("outlier-direction", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->sparse_dir), uint8_t{200});
  });
  bad("outlier-start", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->sparse_start + 1), uint32_t{0xFFFFFFF0});
  });
  bad("width", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->widths), uint8_t{8});
  });
  bad("nan", "damaged", [&](Bytes& b) {
    SetSection(b, format::kData, in_payload(piece->scale), uint16_t{0x7E00});
  });
  WriteState(add);
}

// --------------------------------------------------------------------------------------- checking

int Check(const std::string& folder) {
  std::ifstream expected(folder + "/expected.txt");
  int files = 0, failed = 0;
  const auto fail = [&failed](const std::string& what) {
    ++failed;
    std::cerr << "FAILED: " << what << "\n";
  };
  std::vector<std::string> digests;
  std::string line, name;
  while (std::getline(expected, line)) {
    if (line.rfind("> ", 0) == 0) {
      if (digests.empty() || digests.front() != line) fail(name + ": not as " + line);
      if (!digests.empty()) digests.erase(digests.begin());
      continue;
    }
    if (!digests.empty()) fail(name + ": more than expected");
    digests.clear();
    std::istringstream words(line);
    std::string status, rest;
    words >> name >> status;
    std::getline(words >> std::ws, rest);
    ++files;
    const Bytes bytes = ReadFile(folder + "/" + name);
    const auto cache = Load(name, bytes);
    const std::string message(cache.status().message());
    if (StatusName(cache.status()) != status) {
      fail(name + ": " + status + " expected, got " + cache.status().ToString());
    } else if (!cache.ok() && message.find(rest) == std::string::npos) {
      fail(name + ": no \"" + rest + "\" in \"" + message + "\"");
    }
    if (!cache.ok()) continue;
    digests = Digests(**cache);
    // What was read is written again as it was.
    if (name != "one-layer.kvg" && Saved(**cache, {.fingerprint = kFingerprint}) != bytes) {
      fail(name + ": saved again it is another file");
    }
  }
  std::cout << files << " files, " << failed << " failed\n";
  return failed == 0 && files > 20 ? 0 : 1;
}

}  // namespace
}  // namespace kvg::test

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::strcmp(argv[1], "--write") == 0) {
      kvg::test::Write(argv[2]);
      return 0;
    }
    if (argc == 2) return kvg::test::Check(argv[1]);
    std::cerr << "usage: golden [--write] FOLDER\n";
    return 2;
  } catch (const std::exception& e) {
    std::cerr << "FAILED: " << e.what() << "\n";
    return 1;
  }
}
