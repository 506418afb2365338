/* aws/nitro_enclaves/attestation.h */

enum aws_rsa_key_size { AWS_RSA_2048, ... };

struct aws_rsa_keypair;

struct aws_rsa_keypair *aws_attestation_rsa_keypair_new(
    struct aws_allocator *allocator, enum aws_rsa_key_size key_size);
void aws_attestation_rsa_keypair_destroy(struct aws_rsa_keypair *keypair);

int aws_attestation_request(
    struct aws_allocator *allocator,
    struct aws_rsa_keypair *keypair,
    struct aws_byte_buf *attestation_doc);
int aws_attestation_rsa_decrypt(
    struct aws_allocator *allocator,
    struct aws_rsa_keypair *keypair,
    struct aws_byte_buf *ciphertext,
    struct aws_byte_buf *plaintext);
