import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;

/**
 * Contends for locks with Curator's own mutex, as it is told line by line: "acquire ID PATH", "release ID", "cycles
 * COUNT THREADS PATH FILE". It says "held ID CZXID", "released ID", "done".
 */
public class Contender {
    static final Map<String, CountDownLatch> releases = new ConcurrentHashMap<>();
    static CuratorFramework client;

    public static void main(String[] arguments) throws Exception {
        client = CuratorFrameworkFactory.newClient(arguments[0], 60000, 30000, new ExponentialBackoffRetry(100, 10));
        client.start();
        client.blockUntilConnected();
        say("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "acquire":
                    acquire(words[1], words[2]);
                    break;
                case "release":
                    releases.get(words[1]).countDown();
                    break;
                case "cycles":
                    cycles(Integer.parseInt(words[1]), Integer.parseInt(words[2]), words[3], Paths.get(words[4]));
                    break;
                default:
                    throw new IllegalArgumentException(line);
            }
        }
        System.exit(0);
    }

    static void acquire(String id, String path) {
        CountDownLatch release = new CountDownLatch(1);
        releases.put(id, release);
        start(() -> {
            InterProcessMutex mutex = new InterProcessMutex(client, path);
            mutex.acquire();
            say("held " + id + " " + czxid(mutex));
            release.await();
            mutex.release();
            say("released " + id);
        });
    }

    static void cycles(int count, int threads, String path, Path file) throws Exception {
        List<Thread> all = new ArrayList<>();
        for (int i = 0; i < threads; i++) {
            all.add(start(() -> {
                for (int cycle = 0; cycle < count; cycle++) {
                    InterProcessMutex mutex = new InterProcessMutex(client, path);
                    mutex.acquire();
                    if (!file.toString().equals("-")) {
                        byte[] line = (czxid(mutex) + "\n").getBytes(StandardCharsets.UTF_8);
                        Files.write(file, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
                    }
                    mutex.release();
                }
            }));
        }
        for (Thread thread : all) {
            thread.join();
        }
        say("done");
    }

    /** The transaction that made the first node in line. */
    static long czxid(InterProcessMutex mutex) throws Exception {
        String first = mutex.getParticipantNodes().iterator().next();
        return client.checkExists().forPath(first).getCzxid();
    }

    interface Work {
        void run() throws Exception;
    }

    static Thread start(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception error) {
                say("failed " + error);
            }
        });
        thread.start();
        return thread;
    }

    static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
