// Saves what a running etcd holds, over its client API, and makes a data directory of it: what `etcdctl snapshot save` and
// `etcdutl snapshot restore` do, by the package that they do it with.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	client "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

const usage = `snapshot save ENDPOINT FILE
snapshot restore FILE DIRECTORY PEER-URL BUMP   revisions are raised by BUMP, so that no client sees one come twice; 0 for not`

// A cluster of tests holds a few MiB.
const patience = 30 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	etcd := snapshot.NewV3(zap.NewNop())
	switch {
	case len(arguments) == 3 && arguments[0] == "save":
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := etcd.Save(ctx, client.Config{Endpoints: arguments[1:2]}, arguments[2])
		return err
	case len(arguments) == 5 && arguments[0] == "restore":
		bump, err := strconv.ParseUint(arguments[4], 10, 63)
		if err != nil {
			return err
		}
		const name = "default"
		return etcd.Restore(snapshot.RestoreConfig{
			SnapshotPath:   arguments[1],
			Name:           name,
			OutputDataDir:  arguments[2],
			PeerURLs:       arguments[3:4],
			InitialCluster: name + "=" + arguments[3],
			// etcd's own default.
			InitialClusterToken: "etcd-cluster",
			RevisionBump:        bump,
			MarkCompacted:       bump > 0,
		})
	}
	return fmt.Errorf("%s", usage)
}
