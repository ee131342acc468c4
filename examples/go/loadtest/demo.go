package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

var demoPrompts = []string{"The cache keeps", "### memory", "A key and a value are ", "Zwölf Boxkämpfer jagen "}

// checkDemo compares what the service says, at once and streamed, with what kvgear-demo says.
func checkDemo(demo, model string, recipes []string) error {
	const count = 120
	for _, recipe := range recipes {
		for _, prompt := range demoPrompts {
			var said, log bytes.Buffer
			command := exec.Command(demo, "--model", model, "--recipes", recipe, "--max-tokens", fmt.Sprint(count), "--prompt", prompt)
			command.Stdout, command.Stderr = &said, &log
			if err := command.Run(); err != nil {
				return fmt.Errorf("%v: %w: %s", command.Args, err, log.String())
			}
			text := bytes.TrimSuffix(bytes.TrimPrefix(said.Bytes(), []byte(prompt)), []byte("\n"))
			if len(text) != count {
				return fmt.Errorf("%v printed %d bytes, not %d", command.Args, len(text), count)
			}
			want := strings.ToValidUTF8(string(text), "\uFFFD")
			body := map[string]any{"prompt": prompt, "max_tokens": count, "recipe": recipe}
			var got answer
			if err := request("POST", "/v1/completions", body, &got); err != nil {
				return err
			}
			streamed, _, err := stream(body)
			if err != nil {
				return err
			}
			if len(got.Choices) != 1 || got.Choices[0].Text != want || streamed != want {
				return fmt.Errorf("%s, %q: the demo says %q, the service %q, streamed %q", recipe, prompt, want, got.Choices, streamed)
			}
		}
	}
	fmt.Printf("demo: %d recipes with %d prompts, the same %d bytes of each\n", len(recipes), len(demoPrompts), count)
	return nil
}
