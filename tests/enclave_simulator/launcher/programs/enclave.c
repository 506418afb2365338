/* A program that knows nothing of any simulator: plain system calls, linked statically.
 * Each mode prints what it saw and exits 0, or says on stderr which check failed and exits 1. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
/* after the former, which old ones need */
#include <linux/vm_sockets.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NSM_IOCTL 0xC0200A00
#define CHECK(truth)                                                                        \
    do {                                                                                    \
        if (!(truth)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #truth, strerror(errno));       \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)
#define FAILS(call, code)                                                                   \
    do {                                                                                    \
        errno = 0;                                                                          \
        CHECK((call) == -1);                                                                \
        CHECK(errno == (code));                                                             \
    } while (0)

struct nsm_raw {
    struct { uint64_t address, length; } request, response;
};

static struct sockaddr_vm at(unsigned cid, unsigned port) {
    return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

static int stream(int flags) {
    int s = socket(AF_VSOCK, SOCK_STREAM | flags, 0);
    CHECK(s >= 0);
    return s;
}

static int dial(int s, unsigned cid, unsigned port) {
    struct sockaddr_vm to = at(cid, port);
    return connect(s, (struct sockaddr *)&to, sizeof to);
}

static int serve(unsigned port, int flags) {
    int s = stream(flags);
    struct sockaddr_vm here = at(VMADDR_CID_ANY, port);
    CHECK(bind(s, (struct sockaddr *)&here, sizeof here) == 0);
    CHECK(listen(s, 16) == 0);
    return s;
}

static void ask(int nsm, const char *request) {
    char response[0x3000];
    struct nsm_raw raw = {{(uintptr_t)request, strlen(request)},
                          {(uintptr_t)response, sizeof response}};
    CHECK(ioctl(nsm, NSM_IOCTL, &raw) == 0);
    CHECK(raw.response.length == strlen(request) + 5);
    CHECK(memcmp(response, "echo:", 5) == 0);
    CHECK(memcmp(response + 5, request, strlen(request)) == 0);
}

static void nsm(void) {
    int device = open("/dev/nsm", O_RDWR | O_CLOEXEC);
    CHECK(device >= 0);
    CHECK(fcntl(device, F_GETFD) == FD_CLOEXEC);
    ask(device, "hello");
    ask(dup(device), "through a duplicate");
    CHECK(chdir("/dev") == 0);
    ask(open("./nsm", O_RDONLY), "by another name");
    ask(openat(open("/", O_PATH), "dev/../dev//nsm", O_RDONLY), "by a relative one");

    char buffer[8];
    struct stat status;
    CHECK(fstat(device, &status) == 0);
    /* Without privilege and without a driver that has neither: the tunnel's, or /dev/null. */
    int tunnel = status.st_rdev == makedev(10, 200), null = status.st_rdev == makedev(1, 3);
    errno = 0;
    CHECK(read(device, buffer, sizeof buffer) == (null ? 0 : -1));
    CHECK(errno == (null ? 0 : tunnel ? EBADFD : EINVAL));
    if (!null)
        FAILS(lseek(device, 0, SEEK_SET), ESPIPE);
    FAILS(ioctl(device, 0xC0200A01, buffer), EINVAL);
    FAILS(open("/dev/nsm", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    FAILS(open("/dev/nsm", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(access("/dev/nsm", X_OK), EACCES);
    CHECK(access("/dev/nsm", R_OK | W_OK) == 0);
    CHECK(stat("/dev/nsm", &status) == 0 && S_ISCHR(status.st_mode));
    CHECK((status.st_mode & 0777) == 0666);
    FAILS(ioctl(open("/dev/null", O_RDWR), NSM_IOCTL, buffer), ENOTTY);
}

/* What holds with a /dev of the program's own only. */
static void listed(void) {
    struct stat by_path, opened;
    int device = open("/dev/nsm", O_RDWR), found = 0;
    CHECK(stat("/dev/nsm", &by_path) == 0 && fstat(device, &opened) == 0);
    CHECK(by_path.st_rdev == opened.st_rdev && by_path.st_ino == opened.st_ino);
    CHECK(by_path.st_mode == opened.st_mode && S_ISCHR(opened.st_mode));
    DIR *folder = opendir("/dev");
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        found += !strcmp(entry->d_name, "nsm") || !strcmp(entry->d_name, "vsock") ||
                 !strcmp(entry->d_name, "null");
    CHECK(found == 3);
    errno = 0;
    CHECK(write(device, "x", 1) == -1 || opened.st_rdev == makedev(1, 3));
    CHECK(errno == EINVAL || opened.st_rdev != makedev(10, 258));
    /* A path only: no ioctl, as in the kernel. */
    FAILS(ioctl(open("/dev/nsm", O_PATH), NSM_IOCTL, NULL), EBADF);
    ask(open("/dev/fd/../../../dev/nsm", O_RDWR), "by a long way");
    CHECK(chdir("/dev") == 0 && symlink("nsm", "link") == 0);
    ask(open("link", O_RDWR), "by a link");
    CHECK(write(open("/dev/null", O_WRONLY), "x", 1) == 1);
}

/* drivers/misc/nsm.c, path by path. */
static void driver(void) {
    int device = open("/dev/nsm", O_RDWR);
    static char large[0x2000], response[16];
    struct nsm_raw raw = {{(uintptr_t)large, 0x1001}, {(uintptr_t)response, 4}};
    FAILS(ioctl(device, NSM_IOCTL, &raw), EMSGSIZE);
    raw.request.length = UINT64_MAX;
    FAILS(ioctl(device, NSM_IOCTL, &raw), EMSGSIZE);
    raw.request.length = 0x1000;
    CHECK(ioctl(device, NSM_IOCTL, &raw) == 0);
    CHECK(raw.response.length == 4 && memcmp(response, "echo\0", 5) == 0);
    raw.response.length = UINT64_MAX;
    raw.request.length = 1;
    CHECK(ioctl(device, NSM_IOCTL, &raw) == 0 && raw.response.length == 6);
    raw.response.address = 8;
    FAILS(ioctl(device, NSM_IOCTL, &raw), EFAULT);
    raw.request.address = 8;
    FAILS(ioctl(device, NSM_IOCTL, &raw), EFAULT);
    FAILS(ioctl(device, NSM_IOCTL, 8), EFAULT);
    FAILS(ioctl(device, NSM_IOCTL, -8L), EFAULT);
    FAILS(ioctl(-1, NSM_IOCTL, &raw), EBADF);
}

/* Memory that is not there, sizes that make no sense, numbers out of range. */
static void hostile(void) {
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(munmap(page + 4096, 4096) == 0);
    char *end = page + 4096;
    memcpy(end - 9, "/dev/nsm", 9);
    CHECK(open(end - 9, O_RDONLY) >= 0);
    FAILS(open(memcpy(end - 8, "/dev/nsm", 8), O_RDONLY), EFAULT);
    FAILS(open((char *)8, O_RDONLY), EFAULT);
    FAILS(open((char *)-8L, O_RDONLY), EFAULT);
    char *endless = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(open(memset(endless, 'x', 8192), O_RDONLY), ENAMETOOLONG);

    int s = stream(0);
    struct sockaddr_vm address = at(3, 1), inet = {.svm_family = AF_INET};
    FAILS(connect(s, (void *)8, sizeof address), EFAULT);
    FAILS(connect(s, (void *)&address, 0), EINVAL);
    FAILS(connect(s, (void *)&address, sizeof address - 1), EINVAL);
    FAILS(connect(s, (void *)&address, UINT32_MAX), EINVAL);
    FAILS(connect(s, (void *)&inet, sizeof inet), EINVAL);
    FAILS(bind(s, (void *)(end - 8), sizeof address), EFAULT);
    FAILS(connect(-1, (void *)&address, sizeof address), EBADF);
    FAILS(syscall(SYS_connect, INT32_MAX, &address, sizeof address), EBADF);

    socklen_t size = -1;
    FAILS(getsockname(s, (void *)&address, &size), EINVAL);
    FAILS(getsockname(s, (void *)&address, (void *)8), EFAULT);
    size = sizeof address;
    FAILS(getsockname(s, (void *)8, &size), EFAULT);
    size = 4;
    address = at(77, 77);
    CHECK(getsockname(s, (void *)&address, &size) == 0);
    CHECK(size == 16 && address.svm_port == 77);
    FAILS(getpeername(s, (void *)&address, &size), ENOTCONN);

    uint64_t value = 4096;
    CHECK(setsockopt(s, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &value, sizeof value) == 0);
    value = 0, size = sizeof value;
    CHECK(getsockopt(s, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &value, &size) == 0);
    CHECK(value == 4096 && size == 8);
    FAILS(setsockopt(s, AF_VSOCK, 99, &value, sizeof value), ENOPROTOOPT);
    FAILS(setsockopt(s, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &value, 4), EINVAL);
    FAILS(setsockopt(s, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, (void *)8, 8), EFAULT);
    int family = 0;
    size = sizeof family;
    CHECK(getsockopt(s, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0 && family == AF_VSOCK);

    FAILS(accept4(s, NULL, NULL, 0), EINVAL);
    FAILS(accept4(s, NULL, NULL, 0x1234), EINVAL);
    FAILS(socket(AF_VSOCK, SOCK_DGRAM, 0), ENODEV);
    FAILS(socket(AF_VSOCK, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
    FAILS(socket(AF_VSOCK, SOCK_STREAM, 6), EPROTONOSUPPORT);
    FAILS(syscall(SYS_io_uring_setup, 8, page), ENOSYS);
    if (fork() == 0) { /* Dies in the middle of calls, again and again. */
        for (int i = 0; i < 50; i++)
            if (fork() == 0) {
                int dying = serve(VMADDR_PORT_ANY, 0);
                alarm(1);
                ualarm(1000 * (1 + i), 0);
                accept(dying, NULL, NULL);
                _exit(0);
            }
        while (wait(NULL) > 0)
            ;
        _exit(0);
    }
    CHECK(wait(NULL) > 0);
    ask(open("/dev/nsm", O_RDWR), "still there");
}

static void talk(int s) {
    char buffer[16];
    CHECK(write(s, "ping", 4) == 4);
    CHECK(read(s, buffer, sizeof buffer) == 4);
    CHECK(memcmp(buffer, "pong", 4) == 0);
}

static void connects(unsigned port) {
    int s = stream(0);
    CHECK(dial(s, 3, port) == 0);
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    CHECK(getpeername(s, (void *)&peer, &size) == 0);
    CHECK(peer.svm_family == AF_VSOCK && peer.svm_cid == 3 && peer.svm_port == port);
    FAILS(dial(s, 3, port), EISCONN);
    talk(s);
    close(s);
    FAILS(dial(stream(0), 3, port + 1), ECONNRESET);
    FAILS(dial(stream(0), 5, port), ETIMEDOUT);

    s = stream(SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fcntl(s, F_GETFL) & O_NONBLOCK && fcntl(s, F_GETFD) == FD_CLOEXEC);
    int epoll = epoll_create1(0), error = -1;
    struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, s, &event) == 0);
    /* Each failure is told later, at an edge, and once. After a timeout the socket may try again,
     * after a refusal it may not. */
    struct { unsigned cid, port; int error; } dials[] = {
        {5, port, ETIMEDOUT}, {5, port, ETIMEDOUT}, {3, port + 1, ECONNRESET}};
    for (int i = 0; i < 3; i++) {
        epoll_wait(epoll, &event, 1, 0);
        FAILS(dial(s, dials[i].cid, dials[i].port), EINPROGRESS);
        CHECK(epoll_wait(epoll, &event, 1, 10000) == 1 && event.events & EPOLLOUT);
        for (int again = 0; again < 2; again++) {
            size = sizeof error;
            CHECK(getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size) == 0);
            CHECK(error == (again ? 0 : dials[i].error));
        }
    }
    FAILS(dial(s, 3, port), EALREADY);
    close(s);
    s = stream(SOCK_NONBLOCK);
    event.events = EPOLLOUT | EPOLLET;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, s, &event) == 0);
    epoll_wait(epoll, &event, 1, 0);
    FAILS(dial(s, 3, port), EINPROGRESS);
    CHECK(epoll_wait(epoll, &event, 1, 10000) == 1 && event.events & EPOLLOUT);
    CHECK(fcntl(s, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(s, F_SETFL, 0) == 0);
    talk(s);
}

static void *client(void *port) {
    int device = open("/dev/nsm", O_RDWR), s = stream(0);
    char request[32];
    snprintf(request, sizeof request, "thread %ld", (long)gettid());
    CHECK(dial(s, VMADDR_CID_LOCAL, (unsigned)(uintptr_t)port) == 0);
    for (int i = 0; i < 20; i++) {
        ask(device, request);
        talk(s);
    }
    return NULL;
}

/* Threads that accept, dial, and ask the NSM, all at once. */
static void *answer(void *listening) {
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    int s = accept4((int)(intptr_t)listening, (void *)&peer, &size, SOCK_CLOEXEC);
    CHECK(s >= 0 && size == 16 && fcntl(s, F_GETFD) == FD_CLOEXEC);
    struct sockaddr_vm same, here;
    CHECK(getpeername(s, (void *)&same, &size) == 0 && memcmp(&peer, &same, sizeof peer) == 0);
    CHECK(getsockname(s, (void *)&here, &size) == 0);
    CHECK(peer.svm_cid == VMADDR_CID_LOCAL && here.svm_cid == VMADDR_CID_LOCAL);
    CHECK(here.svm_port == 700);
    char buffer[4];
    while (read(s, buffer, 4) == 4)
        CHECK(write(s, "pong", 4) == 4);
    close(s);
    return NULL;
}

static void threads(void) {
    pthread_t all[32];
    int listening = serve(700, 0);
    for (int i = 0; i < 16; i++)
        CHECK(pthread_create(&all[i], NULL, answer, (void *)(intptr_t)listening) == 0);
    for (int i = 16; i < 32; i++)
        CHECK(pthread_create(&all[i], NULL, client, (void *)700) == 0);
    for (int i = 16; i < 32; i++)
        CHECK(pthread_join(all[i], NULL) == 0);
    /* The clients' sockets are open still: end them so that the servers see it. */
    for (int fd = 3; fd < 256; fd++)
        if (fd != listening)
            shutdown(fd, SHUT_RDWR);
    for (int i = 0; i < 16; i++)
        CHECK(pthread_join(all[i], NULL) == 0);
}

static void children(void) {
    int listening = serve(VMADDR_PORT_ANY, 0), device = open("/dev/nsm", O_RDWR), status;
    struct sockaddr_vm here, again = at(VMADDR_CID_ANY, 0);
    socklen_t size = sizeof here;
    CHECK(getsockname(listening, (void *)&here, &size) == 0 && here.svm_port > 1023);
    again.svm_port = here.svm_port;
    FAILS(bind(stream(0), (void *)&again, sizeof again), EADDRINUSE);
    again = at(99, 1);
    FAILS(bind(stream(0), (void *)&again, sizeof again), EADDRNOTAVAIL);
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            ask(device, "inherited");
            int s = stream(0);
            CHECK(dial(s, 16, here.svm_port) == 0);
            talk(s);
            _exit(0);
        }
    for (int i = 0; i < 4; i++) {
        char buffer[4];
        int s = accept(listening, NULL, NULL);
        CHECK(s >= 0 && read(s, buffer, 4) == 4 && write(s, "pong", 4) == 4);
        close(s);
    }
    while (wait(&status) > 0)
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(listening);
    CHECK(close(serve(here.svm_port, 0)) == 0);
}

static void nothing(int number) { (void)number; }
static void dial_900(int number) { (void)number; dial(socket(AF_VSOCK, SOCK_STREAM, 0), 16, 900); }

static void interrupted(void) {
    int listening = serve(900, 0);
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    FAILS(accept(listening, NULL, NULL), EINTR);
    action = (struct sigaction){.sa_handler = dial_900, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    CHECK(accept(listening, NULL, NULL) >= 0);
    struct timeval limit = {.tv_usec = 100000};
    CHECK(setsockopt(listening, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    FAILS(accept(listening, NULL, NULL), EAGAIN);
    FAILS(accept(serve(901, SOCK_NONBLOCK), NULL, NULL), EAGAIN);
}

static volatile int signals;
static void count_signal(int number) { (void)number; signals++; }

static void every_millisecond(int flags) {
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = flags};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval timer = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

/* Calls that no signal ends in a kernel, under a handler without SA_RESTART. */
static void paths_under_signals(void) {
    struct stat status;
    int failed = 0;
    every_millisecond(0);
    while (signals < 500) {
        failed += stat("/etc", &status) != 0;
        failed += access("/dev/nsm", R_OK) != 0;
        int device = open("/dev/nsm", O_RDWR);
        failed += device < 0;
        close(device);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    printf("failed: %d\n", failed);
}

/* With SA_RESTART nothing fails; without, what a signal ended is done by calling again. */
static void calls_under_signals(unsigned port, int flags) {
    static char left[4096][64];
    int device = open("/dev/nsm", O_RDWR), seen = 0, count = 0;
    every_millisecond(flags);
    for (int i = 0; i < 300; i++) {
        char request[32], *response;
        int size = snprintf(request, sizeof request, "request %d", i), result;
        struct nsm_raw raw;
        do {
            response = left[count++];
            raw = (struct nsm_raw){{(uintptr_t)request, size}, {(uintptr_t)response, 64}};
            result = ioctl(device, NSM_IOCTL, &raw);
            seen += result != 0;
            if (result != 0) /* The memory is the program's again. */
                memset(response, 0x55, 64);
            CHECK(count < 4096);
        } while (result != 0 && errno == EINTR);
        CHECK(result == 0 && raw.response.length == (unsigned)size + 5);
        CHECK(memcmp(response + 5, request, size) == 0);
        memset(response, 0x55, 64);
        int s;
        while ((s = socket(AF_VSOCK, SOCK_STREAM, 0)) < 0 && errno == EINTR)
            seen++;
        CHECK(s >= 0);
        while ((result = dial(s, 3, port)) != 0 && errno == EINTR)
            seen++;
        CHECK(result == 0);
        close(s);
        while ((s = socket(AF_VSOCK, SOCK_STREAM, 0)) < 0 && errno == EINTR)
            seen++;
        struct sockaddr_vm here = at(VMADDR_CID_ANY, 3000 + i);
        while ((result = bind(s, (struct sockaddr *)&here, sizeof here)) != 0 && errno == EINTR)
            seen++;
        CHECK(result == 0);
        close(s);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    CHECK(signals > 0 && (!flags || !seen));
    for (int i = 0; i < count * 64; i++)
        CHECK(left[0][i] == 0x55);
}

/* What UNIX sockets can and vsock cannot. */
static void only_vsock(unsigned port) {
    int s = stream(0), pair[2];
    CHECK(dial(s, 3, port) == 0);
    char byte;
    FAILS(send(s, "x", 1, MSG_OOB), EOPNOTSUPP);
    FAILS(recv(s, &byte, 1, MSG_OOB), EOPNOTSUPP);
    FAILS(sendmsg(s, &(struct msghdr){0}, MSG_OOB), EOPNOTSUPP);
    FAILS(recvmsg(s, &(struct msghdr){0}, MSG_OOB), EOPNOTSUPP);
    talk(s);
    /* Other sockets as they are. */
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(send(pair[0], "x", 1, 0) == 1 && recv(pair[1], &byte, 1, 0) == 1);
    FAILS(send(stream(0), "x", 1, MSG_NOSIGNAL), ENOTCONN);

    int listening = serve(800, 0), client = stream(0);
    CHECK(dial(client, VMADDR_CID_LOCAL, 800) == 0);
    int server = accept(listening, NULL, NULL);
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } control = {0};
    struct iovec data = {"x", 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    control.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &server, sizeof server);
    if (sendmsg(client, &message, 0) == 1) { /* Before Linux 6.16. */
        puts("passes descriptors");
        return;
    }
    memcpy(CMSG_DATA(&control.header), &client, sizeof client);
    FAILS(sendmsg(server, &message, 0), EPERM);
}

static void accepts(void) {
    int listening = serve(600, 0), s;
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    puts("accepting");
    fflush(stdout);
    CHECK((s = accept(listening, (void *)&peer, &size)) >= 0);
    CHECK(size == 16 && peer.svm_cid == 3);
    CHECK(write(s, "hello", 5) == 5);
}

static void many(unsigned port, int count) {
    for (int i = 0; i < count; i++) {
        int s = stream(0);
        CHECK(dial(s, 3, port) == 0);
        close(s);
        close(open("/dev/nsm", O_RDWR));
    }
}

int main(int count, char **words) {
    const char *mode = count > 1 ? words[1] : "";
    unsigned port = count > 2 ? atoi(words[2]) : 0;
    if (!strcmp(mode, "nsm")) nsm();
    else if (!strcmp(mode, "driver")) driver();
    else if (!strcmp(mode, "hostile")) hostile();
    else if (!strcmp(mode, "connects")) connects(port);
    else if (!strcmp(mode, "threads")) threads();
    else if (!strcmp(mode, "children")) children();
    else if (!strcmp(mode, "interrupted")) interrupted();
    else if (!strcmp(mode, "listed")) listed();
    else if (!strcmp(mode, "paths")) paths_under_signals();
    else if (!strcmp(mode, "restarts")) calls_under_signals(port, SA_RESTART);
    else if (!strcmp(mode, "retries")) calls_under_signals(port, 0);
    else if (!strcmp(mode, "vsock")) only_vsock(port);
    else if (!strcmp(mode, "accepts")) accepts();
    else if (!strcmp(mode, "many")) many(port, 500);
    else return 2;
    puts("good");
    return 0;
}
