// Formatting of results.
#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "refusal.h"

namespace demo {
namespace {

std::string Number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string DivergenceText(double value) {
  if (value == 0) return "0";
  return Number(value < 0.001 ? "%.1e" : "%.4f", value);
}

std::string ScoreText(const Score& score) { return Text(score.right, "/", score.tried); }

bool Timed(const Result& r) { return r.decode_tokens_per_s > 0; }

std::vector<std::string> Heading(const Result& first) {
  std::vector<std::string> heading = {"recipe", "kept", "bits/el", "KiB", "smaller"};
  for (const auto& [kind, score] : first.exams) heading.push_back(kind);
  if (!first.exams.empty()) heading.insert(heading.end(), {"exams", "KL exams"});
  if (first.text.positions > 0) heading.insert(heading.end(), {"KL text", "KL worst", "same top"});
  heading.insert(heading.end(), {"err K", "err V"});
  if (Timed(first)) heading.insert(heading.end(), {"tok/s", "attn ms"});
  return heading;
}

std::vector<std::string> Row(const Result& r) {
  std::vector<std::string> row = {r.recipe, Number("%.0f%%", 100 * r.kept_share()),
                                  Number("%.2f", r.bits_per_element()),
                                  Number("%.0f", r.mean_bytes() / 1024),
                                  Number("%.2fx", r.times_smaller())};
  for (const auto& [kind, score] : r.exams) row.push_back(ScoreText(score));
  if (!r.exams.empty()) {
    row.insert(row.end(), {ScoreText(r.all_exams()), DivergenceText(r.answers.mean())});
  }
  if (r.text.positions > 0) {
    row.insert(row.end(), {DivergenceText(r.text.mean()), DivergenceText(r.text.most),
                           Number("%.2f%%", 100 * r.text.same_top_share())});
  }
  row.insert(row.end(), {Number("%.2f%%", 100 * r.error_k()), Number("%.2f%%", 100 * r.error_v())});
  if (Timed(r)) {
    row.insert(row.end(), {Number("%.0f", r.decode_tokens_per_s), Number("%.2f", r.attention_ms)});
  }
  return row;
}

}  // namespace

std::string TableText(const std::vector<Result>& results) {
  std::vector<std::vector<std::string>> rows = {Heading(results.front())};
  for (const Result& r : results) rows.push_back(Row(r));
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string out;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::string line;
    for (size_t c = 0; c < rows[i].size(); ++c) {
      const std::string pad(widths[c] - rows[i][c].size(), ' ');
      if (c > 0) line += "  ";
      line += c == 0 ? rows[i][c] + pad : pad + rows[i][c];
    }
    out += line + "\n";
    if (i == 0) out += std::string(line.size(), '-') + "\n";
  }
  return out;
}

std::string JsonText(const std::vector<Result>& results) {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  for (const Result& r : results) {
    const bool text = r.text.positions > 0;
    const bool exams = r.answers.positions > 0;
    Json scores = Json::object();
    Json tried = Json::object();
    Json divergences = Json::object();
    for (const auto& [kind, score] : r.exams) {
      scores[kind] = static_cast<double>(score.right) / score.tried;
      tried[kind] = score.tried;
      divergences[kind] = score.answers.mean();
    }
    const auto known = [](bool there, double value) { return there ? Json(value) : Json(); };
    list.push_back({{"recipe", r.recipe},
                    {"bits_per_element", r.bits_per_element()},
                    {"kv_bytes", std::llround(r.mean_bytes())},
                    {"fp16_bytes", std::llround(r.mean_fp16_bytes())},
                    {"kl_mean", known(text, r.text.mean())},
                    {"kl_max", known(text, r.text.most)},
                    {"kl_p99", known(text, r.text.percentile_99())},
                    {"kl_exams", known(exams, r.answers.mean())},
                    {"kl_exams_p99", known(exams, r.answers.percentile_99())},
                    {"same_top", known(text, r.text.same_top_share())},
                    {"exams", scores},
                    {"rel_error_k", r.error_k()},
                    {"rel_error_v", r.error_v()},
                    {"decode_tokens_per_s", known(Timed(r), r.decode_tokens_per_s)},
                    {"attention_ms_per_token", known(Timed(r), r.attention_ms)},
                    {"kl_exams_max", known(exams, r.answers.most)},
                    {"same_top_exams", known(exams, r.answers.same_top_share())},
                    {"kl_exams_by_kind", divergences},
                    {"exam_items", tried},
                    {"text_positions", r.text.positions},
                    {"tokens_kept", r.kept_share()},
                    {"plan_bytes", r.plan_bytes}});
  }
  return list.dump(2) + "\n";
}

}  // namespace demo
