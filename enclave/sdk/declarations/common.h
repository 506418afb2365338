/* aws-c-common: aws/common/{allocator,byte_buf,error,string}.h; what the bindings need of it. */

struct aws_allocator;
struct aws_string;

struct aws_byte_buf {
    size_t len;
    uint8_t *buffer;
    size_t capacity;
    struct aws_allocator *allocator;
};

struct aws_byte_cursor {
    size_t len;
    uint8_t *ptr;
};

void aws_byte_buf_clean_up_secure(struct aws_byte_buf *buf);

struct aws_string *aws_string_new_from_array(
    struct aws_allocator *allocator, const uint8_t *bytes, size_t len);
void aws_string_destroy_secure(struct aws_string *str);

int aws_last_error(void);
void aws_reset_error(void);
const char *aws_error_name(int err);
