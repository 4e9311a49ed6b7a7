package netio

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Nft runs the nft program at path inside the namespace, with script as its standard input, and returns what it prints.
// A script read with `-f -` is one transaction: all of it holds, or, on an error, none.
func (n *NS) Nft(ctx context.Context, path, script string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &stdout, &stderr
	err := n.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("run nft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
