// Holds a lock of etcd's own recipe, Go's concurrency.Mutex, again and again.
//
// usage: go-mutex ENDPOINTS NAME TIMES
//
// At every grant it prints the revision that is the grant's fencing token. Then it waits for a line, unlocks, and prints
// "unlocked"; where its input has ended, it does not wait.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(endpoints, name, times string) error {
	count, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(endpoints, ","),
		DialTimeout: 30 * time.Second,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := concurrency.NewSession(client)
	if err != nil {
		return err
	}
	defer session.Close()
	lines := bufio.NewScanner(os.Stdin)
	for i := 0; i < count; i++ {
		mutex := concurrency.NewMutex(session, name)
		if err := mutex.Lock(context.Background()); err != nil {
			return err
		}
		fmt.Println(mutex.Header().Revision)
		lines.Scan()
		if err := mutex.Unlock(context.Background()); err != nil {
			return err
		}
		fmt.Println("unlocked")
	}
	return nil
}
