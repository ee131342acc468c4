// kvgear-inspect: what a saved cache holds, as text or as JSON.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/format/load.h"
#include "core/format/stream.h"

namespace {

struct Errors {
  double mean = 0, worst = 0;
};

Errors ErrorsOf(const kvg::SavedSide& side) {
  Errors errors;
  double tokens = 0;
  for (const kvg::SavedSegment& segment : side.segments) {
    if (segment.rows) continue;
    const double error =
        segment.norm_sq > 0 ? std::sqrt(segment.error_sq / segment.norm_sq) : 0;
    errors.mean += error * static_cast<double>(segment.tokens);
    errors.worst = std::max(errors.worst, error);
    tokens += static_cast<double>(segment.tokens);
  }
  if (tokens > 0) errors.mean /= tokens;
  return errors;
}

// Nothing in a recipe needs more than this; a fingerprint is written in hex.
std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::CHexEscape(text), "\"");
}

const char* NameOf(kvg::ops::Side side) { return side == kvg::ops::kSideK ? "k" : "v"; }

std::string Json(const kvg::SavedCache& saved, bool verified) {
  std::string out = absl::StrFormat(
      "{\"version\": %d, \"bytes\": %d, \"sections\": %d, \"verified\": %s,\n"
      " \"model\": {\"layers\": %d, \"q_heads\": %d, \"kv_heads\": %d, \"head_dim\": %d},\n"
      " \"fingerprint\": \"%s\", \"first_layer\": %d, \"recipes\": [",
      saved.version, saved.bytes, saved.sections, verified ? "true" : "false", saved.shape.layers,
      saved.shape.q_heads, saved.shape.kv_heads, saved.shape.head_dim,
      absl::BytesToHexString(saved.fingerprint), saved.first_layer);
  for (size_t i = 0; i < saved.recipes.size(); ++i) {
    absl::StrAppend(&out, i == 0 ? "" : ", ", Quoted(saved.recipes[i]));
  }
  absl::StrAppend(&out, "],\n \"selections\": [");
  for (size_t i = 0; i < saved.selections.size(); ++i) {
    const kvg::SavedSelection& of = saved.selections[i];
    absl::StrAppendFormat(&out,
                          "%s\n  {\"layer\": %d, \"appended\": %d, \"held\": %d, "
                          "\"bytes_positions\": %d, \"bytes_scores\": %d}",
                          i == 0 ? "" : ",", of.layer, of.appended, of.held, of.bytes_positions,
                          of.bytes_scores);
  }
  absl::StrAppend(&out, "],\n \"sides\": [\n");
  for (size_t i = 0; i < saved.sides.size(); ++i) {
    const kvg::SavedSide& side = saved.sides[i];
    const Errors errors = ErrorsOf(side);
    absl::StrAppendFormat(
        &out,
        "  {\"layer\": %d, \"side\": \"%s\", \"latents\": %s, \"first_token\": %d, \"tokens\": %d, \"window\": %d, "
        "\"segments\": %d, \"bytes_codes\": %d, \"bytes_scales\": %d, \"bytes_low_rank\": %d, "
        "\"bytes_sparse\": %d, \"bytes_window\": %d, \"bytes_basis\": %d, \"bytes_seen\": %d, "
        "\"bytes_other\": %d, "
        "\"rel_error_mean\": %.9g, \"rel_error_worst\": %.9g}%s\n",
        side.layer, NameOf(side.side), side.latents ? "true" : "false", side.first_token, side.end() - side.first_token, side.rows,
        side.segments.size(), side.bytes.codes, side.bytes.scales, side.bytes.low_rank,
        side.bytes.sparse, side.bytes_window, side.bytes_basis, side.bytes_seen,
        side.bytes.bookkeeping, errors.mean, errors.worst, i + 1 < saved.sides.size() ? "," : "");
  }
  return out + " ]}\n";
}

std::string Text(const kvg::SavedCache& saved, bool verified) {
  std::string out = absl::StrFormat(
      "saved cache, format version %d, %d bytes in %d sections%s\n"
      "model        %d layers, %d query heads, %d KV heads, head_dim %d\n"
      "fingerprint  %s\n"
      "layers       %d to %d\n",
      saved.version, saved.bytes, saved.sections, verified ? ", all checksums right" : "",
      saved.shape.layers, saved.shape.q_heads, saved.shape.kv_heads, saved.shape.head_dim,
      saved.fingerprint.empty() ? "none" : absl::BytesToHexString(saved.fingerprint),
      saved.first_layer, saved.first_layer + saved.layers - 1);
  for (uint32_t i = 0; i < saved.layers; ++i) {
    if (i > 0 && saved.recipes[i] == saved.recipes[i - 1]) continue;
    absl::StrAppendFormat(&out, "recipe       %s%s\n", absl::CHexEscape(saved.recipes[i]),
                          i == 0 ? "" : absl::StrCat(" from layer ", saved.first_layer + i, " on"));
  }
  absl::StrAppendFormat(&out, "\n%5s %4s %9s %7s %8s %12s %10s %10s %10s %10s %10s %8s %8s\n", "layer",
                        "side", "tokens", "window", "segments", "codes", "scales", "low rank",
                        "sparse", "window B", "basis", "error", "worst");
  for (const kvg::SavedSide& side : saved.sides) {
    const Errors errors = ErrorsOf(side);
    absl::StrAppendFormat(&out, "%5d %4s %9d %7d %8d %12d %10d %10d %10d %10d %10d %7.2f%% %7.2f%%\n",
                          side.layer, NameOf(side.side), side.end() - side.first_token, side.rows,
                          side.segments.size(), side.bytes.codes, side.bytes.scales,
                          side.bytes.low_rank, side.bytes.sparse,
                          side.bytes_window,
                          side.bytes_basis + side.bytes_seen, 100 * errors.mean,
                          100 * errors.worst);
  }
  if (saved.selections.empty()) return out;
  absl::StrAppendFormat(&out, "\n%5s %9s %9s %10s %10s\n", "layer", "appended", "held", "positions",
                        "scores");
  for (const kvg::SavedSelection& of : saved.selections) {
    absl::StrAppendFormat(&out, "%5d %9d %9d %10d %10d\n", of.layer, of.appended, of.held,
                          of.bytes_positions, of.bytes_scores);
  }
  return out;
}

int Run(const std::string& path, bool verify, bool json) {
  const auto source = kvg::FileSource::Open(path);
  const absl::StatusOr<kvg::SavedCache> saved =
      source.ok() ? kvg::InspectSaved(**source, true, verify) : source.status();
  if (!saved.ok()) {
    std::fprintf(stderr, "kvgear-inspect: %s\n", std::string(saved.status().message()).c_str());
    return 1;
  }
  const std::string out = json ? Json(*saved, verify) : Text(*saved, verify);
  return std::fputs(out.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string path;
  bool verify = false, json = false, wrong = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--verify") == 0) {
      verify = true;
    } else if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else {
      wrong = wrong || !path.empty() || argv[i][0] == '-';
      path = argv[i];
    }
  }
  if (wrong || path.empty()) {
    std::fprintf(stderr, "usage: kvgear-inspect [--verify] [--json] FILE\n");
    return 2;
  }
  try {
    return Run(path, verify, json);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kvgear-inspect: %s\n", e.what());
    return 1;
  }
}
