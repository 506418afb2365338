/* Read by the C compiler and, as it is, by cffi: no directives of the preprocessor. */
struct epoll_event;

/* One descriptor of a relayed connection. */
struct side {
    int peer;           /* the descriptor of the other side; -1 if it is not joined to one */
    int blocked;        /* bytes of this connection wait in Python: its events are Python's */
    uint64_t moved;     /* bytes read here that the other side has taken */
};

/* What is left to Python, and why. */
enum {
    PUMP_EVENT,         /* its events */
    PUMP_MORE,          /* it may have more to read; no event will come */
    PUMP_NO_SOURCE,     /* reading from it failed with an error */
    PUMP_NO_SINK,       /* writing what came from it failed with an error */
    PUMP_UNSENT         /* that many bytes of the buffer, which were read from it, found no room */
};

struct left {
    int fd;
    int why;
    unsigned int value; /* a mask of events, an error, or a number of bytes */
};

struct pump {
    int epoll;
    int reads;          /* full buffers that one descriptor may move in one turn */
    struct side *sides; /* by descriptor */
    int size;           /* of `sides` */
    char *buffer;
    size_t room;        /* bytes of the buffer that one read may fill */
    size_t begin;       /* where the unsent bytes begin in it */

    int count, next;    /* events of this turn, and the next one to handle */
    struct epoll_event *ready;
    struct left *left;
    int most;           /* size of `ready`, and of `left` */
};

const char *pump_build(void);  /* what the sources were when this was compiled */
int pump_wait(struct pump *p, int milliseconds);
int pump_step(struct pump *p);
